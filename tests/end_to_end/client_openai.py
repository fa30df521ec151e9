"""What users of the openai package do, under whichever version of it runs this program; prints what came of it as JSON.

Arguments: the gateway's address, a key with money, and one with too little.
"""

import json
import sys

import openai
from openai import OpenAI

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def main(url: str, key: str, poor_key: str) -> None:
    client = OpenAI(base_url=url, api_key=key)
    messages = [{"role": "user", "content": "What is the weather like in Lima?"}]
    plain = client.chat.completions.create(model="sandbox-small", messages=messages)
    stream = client.chat.completions.create(model="sandbox-small", messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    called = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    try:
        OpenAI(base_url=url, api_key=poor_key).chat.completions.create(model="exact", messages=messages)
    except openai.APIStatusError as exc:
        refusal = {"status": exc.status_code, "explained": "The budget of this key does not cover" in exc.message}
    facts = {
        "version": openai.__version__,
        "same": plain.choices[0].message.content == "".join(pieces),
        "usage": plain.usage.total_tokens,
        "routed": called.model,
        "tool": called.choices[0].message.tool_calls[0].function.name,
        "models": [model.id for model in client.models.list()],
        "refusal": refusal,
    }
    sys.stdout.write(json.dumps(facts))


main(*sys.argv[1:])
