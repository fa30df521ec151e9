"""What users of the litellm package do with an OpenAI-compatible provider; prints what came of it as JSON.

No tools: litellm itself cannot pass any on without the package `mcp`, which it does not require.
Arguments: the gateway's address, a key with money, and one with too little.
"""

import json
import sys

import litellm


def main(url: str, key: str, poor_key: str) -> None:
    ours = {"api_base": url, "api_key": key}
    messages = [{"role": "user", "content": "What is the weather like in Lima?"}]
    plain = litellm.completion("openai/sandbox-small", messages, **ours)
    stream = litellm.completion("openai/sandbox-small", messages, stream=True, **ours)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    routed = litellm.completion("openai/auto", messages, **ours)
    try:
        litellm.completion("openai/exact", messages, api_base=url, api_key=poor_key)
    except litellm.exceptions.APIError as exc:
        refusal = {"status": exc.status_code, "explained": "The budget of this key does not cover" in str(exc)}
    facts = {
        "same": plain.choices[0].message.content == "".join(pieces),
        "usage": plain.usage.total_tokens,
        "routed": routed.model,
        "refusal": refusal,
    }
    sys.stdout.write(json.dumps(facts))


main(*sys.argv[1:])
