"""OpenAI chat completions: requests, answers and the usage in them.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from budgets.usage import Usage
from gateway.wire.errors import InvalidAnswer, InvalidRequest
from gateway.wire.request import ModelRequest
from gateway.wire.strict_json import parse_object
from routing.task import TaskText

MAX_OUTPUT_TOKENS = 10_000_000
MAX_CHOICES = 128

_PARTS = ("cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens")
_NUMBER = (int, float)
_FIELD_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "model": ("a string", (str,)),
    "messages": ("an array", (list,)),
    "stream": ("a boolean", (bool,)),
    "stream_options": ("an object", (dict,)),
    "n": ("an integer", (int,)),
    "max_tokens": ("an integer", (int,)),
    "max_completion_tokens": ("an integer", (int,)),
    "temperature": ("a number", _NUMBER),
    "top_p": ("a number", _NUMBER),
    "presence_penalty": ("a number", _NUMBER),
    "frequency_penalty": ("a number", _NUMBER),
    "logit_bias": ("an object", (dict,)),
    "logprobs": ("a boolean", (bool,)),
    "top_logprobs": ("an integer", (int,)),
    "metadata": ("an object", (dict,)),
    "parallel_tool_calls": ("a boolean", (bool,)),
    "response_format": ("an object", (dict,)),
    "seed": ("an integer", (int,)),
    "service_tier": ("a string", (str,)),
    "stop": ("a string or an array", (str, list)),
    "store": ("a boolean", (bool,)),
    "tools": ("an array", (list,)),
    "tool_choice": ("a string or an object", (str, dict)),
    "user": ("a string", (str,)),
}


def parse_request(raw: bytes) -> ModelRequest:
    """The request in `raw`. Raises InvalidRequest naming the field; fields we do not know are kept as they are."""
    body = parse_object(raw)
    _check_types(body)
    if not body.get("model"):
        raise InvalidRequest("Say which model you want: `model` is missing or empty.", "model")
    _check_messages(body.get("messages"))
    stream_options = body.get("stream_options") or {}
    return ModelRequest(
        operation_name="chat",
        model=body["model"],
        body=body,
        stream=body.get("stream") or False,
        wants_usage=stream_options.get("include_usage") is True,
        output_cap=_output_cap(body),
        n=_within(body, "n", 1, MAX_CHOICES) or 1,
        size_bytes=len(raw),
    )


def _check_types(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        expected = _FIELD_TYPES.get(name)
        if expected is not None and value is not None and type(value) not in expected[1]:  # a bool is no integer here
            raise InvalidRequest(f"`{name}` must be {expected[0]}, not {type(value).__name__}.", name)


def _check_messages(messages: list[Any] | None) -> None:
    if not messages:
        raise InvalidRequest("`messages` is missing or empty; send at least one message.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            where = f"messages[{index}]"
            raise InvalidRequest(f"`{where}` must be an object with a string `role`.", where)


def _output_cap(body: Mapping[str, Any]) -> int | None:
    old = _within(body, "max_tokens", 1, MAX_OUTPUT_TOKENS)
    new = _within(body, "max_completion_tokens", 1, MAX_OUTPUT_TOKENS)
    if old is not None and new is not None and old != new:
        message = "`max_tokens` and `max_completion_tokens` differ; send only `max_completion_tokens`."
        raise InvalidRequest(message, "max_tokens")
    return new if new is not None else old


def _within(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value: int | None = body.get(name)
    if value is not None and not least <= value <= most:
        raise InvalidRequest(f"`{name}` must be between {least} and {most}, not {value}.", name)
    return value


def upstream_body(request: ModelRequest, model: str, cap_field: str, output_cap: int | None) -> dict[str, Any]:
    """The body to send: the caller's, with the deployment's model name, the output cap, and usage asked for.

    `cap_field` is how the provider spells the cap: `max_tokens` is known everywhere but to OpenAI's reasoning models.
    """
    body = dict(request.body)
    body["model"] = model
    if output_cap is not None:
        old_spelling = cap_field == "max_tokens" or body.get("max_tokens") is not None
        body.pop("max_tokens", None)
        body.pop("max_completion_tokens", None)
        body["max_tokens" if old_spelling else "max_completion_tokens"] = output_cap
    if request.stream:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return body


def read_answer(raw: bytes) -> tuple[str | None, Usage | None]:
    """The model that a whole answer names, and its usage, None where it has none.

    Raises InvalidAnswer for what is no answer: no JSON object, or an error in the guise of one.
    """
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidAnswer("no JSON") from exc
    if not isinstance(answer, dict):
        raise InvalidAnswer("no JSON object")
    if answer.get("error") and not answer.get("choices"):
        raise InvalidAnswer("an error with status 200")
    usage = answer.get("usage")
    model = answer.get("model")
    return model if isinstance(model, str) else None, read_usage(answer) if isinstance(usage, dict) else None


def read_usage(answer: Mapping[str, Any]) -> Usage:
    """The usage of an answer or of a stream's chunk that has one; in OpenAI's convention parts are in their totals.

    The counts are as the provider wrote them: `Usage.within` tells whether they can be true.
    """
    usage = answer["usage"]
    prompt, completion = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cache_read_input_tokens=_count(prompt, "cached_tokens"),
        cache_creation_input_tokens=_count(prompt, "cache_write_tokens"),
        audio_input_tokens=_count(prompt, "audio_tokens"),
        reasoning_output_tokens=_count(completion, "reasoning_tokens"),
        audio_output_tokens=_count(completion, "audio_tokens"),
        service_tier=answer.get("service_tier"),
    )


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}


def _count(holder: Mapping[str, Any], name: str) -> Any:
    """The count as it was sent; a part that is absent or null is 0, while a total that is, is no count at all."""
    value = holder.get(name)
    return 0 if value is None and name.endswith(_PARTS) else value


def task_text(request: ModelRequest) -> TaskText:
    """What routing may look at."""
    messages: list[dict[str, Any]] = request.body["messages"]
    users = [message for message in messages if message["role"] == "user"]
    system = [_text(message) for message in messages if message["role"] in ("system", "developer")]
    response_format = request.body.get("response_format") or {}
    return TaskText(
        user=_text(users[-1]) if users else "",
        system="\n".join(system),
        turns=len(users),
        context_bytes=request.size_bytes,
        tools=tuple(_tool_names(request.body)),
        images=sum(1 for part in _parts(messages) if part.get("type") == "image_url"),
        response_format=str(response_format.get("type", "text")),
        output_cap=request.output_cap,
        in_tool_loop=messages[-1]["role"] == "tool",
    )


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in _parts([message]) if isinstance(part.get("text"), str))


def _parts(messages: list[Any]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _tool_names(body: Mapping[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]
