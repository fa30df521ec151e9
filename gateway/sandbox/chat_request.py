"""A chat request as it came in: checked as OpenAI checks it, its tokens counted."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import orjson

from gateway.sandbox import tokens
from gateway.sandbox.errors import Refused, invalid, missing
from gateway.sandbox.models import MODELS, Model

Json: TypeAlias = dict[str, Any]

MESSAGE_TOKENS = 3
"""What every message costs beside its text; the request itself costs the same once more."""
IMAGE_TOKENS = 85
"""What every image costs, whatever its size."""
MOST_CHOICES = 128

EFFORTS = {"none": 0, "minimal": 0, "low": 16, "medium": 64, "high": 256, "xhigh": 1_024}
"""Reasoning tokens by `reasoning_effort`, for the models that reason."""

_ANY_OBJECT: Json = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked for. `tools` are those that may be called, and one of them must be if `must_call`.

    `max_tokens` is the cap of each choice's output, reasoning included. `schema` is what a JSON answer must satisfy.
    `prompt_tokens[i]` counts the tools and the first i messages, so the last one is the whole prompt.
    """

    model: Model
    messages: list[Json]
    prompt_tokens: tuple[int, ...]
    choices: int
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    tools: tuple[Tool, ...]
    must_call: bool
    schema: Json | None
    effort: str

    @property
    def input_tokens(self) -> int:
        """The tokens of the whole prompt."""
        return self.prompt_tokens[-1]

    @property
    def prompt(self) -> str:
        """The text of the last user message; empty where there is none."""
        spoken = (message for message in reversed(self.messages) if message["role"] == "user")
        return text_of(next(spoken, {}))


def parse(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises Refused as OpenAI would: 404 for a model that is not sold, 400 for everything else.
    """
    data = json_object(body)
    model = _model(data)
    messages = _messages(data)
    stream = bool(_field(data, "stream", bool))
    tools, must_call = _callable(data)
    _check_sampling(data)
    request = ChatRequest(
        model=model,
        messages=messages,
        prompt_tokens=_prompt_tokens(data, messages),
        choices=_integer(data, "n", MOST_CHOICES, 1),
        max_tokens=_max_tokens(data, model),
        stop=_stop(data),
        stream=stream,
        include_usage=_include_usage(data, stream),
        tools=tools,
        must_call=must_call,
        schema=_schema(data, messages),
        effort=_effort(data),
    )
    if request.input_tokens > model.context_window:
        message = f"This model's maximum context length is {model.context_window} tokens."
        raise invalid("messages", f"{message} Your messages have {request.input_tokens}.", "context_length_exceeded")
    return request


def json_object(body: bytes) -> Json:
    """The JSON object in `body`. Raises Refused (400) where it is none, or nested too deep to be written again."""
    try:
        data = orjson.loads(body)
        orjson.dumps(data)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as exc:
        raise Refused(400, f"We could not parse the JSON body of your request: {exc}.") from exc
    if not isinstance(data, dict):
        raise Refused(400, "The JSON body of your request must be an object.")
    return data


def text_of(message: Json) -> str:
    """The text of a message, its parts joined by lines; a part without text has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or part.get("refusal") or "" for part in content or ())


def _field(data: Json, name: str, *kinds: type) -> Any:
    """`data[name]`, None where it is absent or null. Raises Refused (400) for another type; a bool is no number."""
    value = data.get(name)
    if value is not None and type(value) not in kinds:
        expected = " or ".join(kind.__name__ for kind in kinds)
        found = type(value).__name__
        message = f"Invalid type for '{name}': expected {expected}, but got {found} instead."
        raise invalid(name, message, "invalid_type")
    return value


def _integer(data: Json, name: str, most: int, default: int) -> int:
    """A whole number from 1 to `most`."""
    value = _field(data, name, int)
    if value is None:
        return default
    if not 1 <= value <= most:
        raise invalid(name, f"Invalid '{name}': {value} is not between 1 and {most}.", "integer_out_of_range")
    return int(value)


def _model(data: Json) -> Model:
    name = _field(data, "model", str)
    if name is None:
        raise missing("model")
    if name not in MODELS:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise Refused(404, message, param="model", code="model_not_found")
    return MODELS[name]


def _max_tokens(data: Json, model: Model) -> int:
    """The cap on the output under either of its names."""
    names = [name for name in ("max_tokens", "max_completion_tokens") if data.get(name) is not None]
    if len(names) > 1:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' cannot both be set.")
    name = names[0] if names else "max_tokens"
    return _integer(data, name, model.max_output_tokens, model.max_output_tokens)


def _stop(data: Json) -> tuple[str, ...]:
    stop = _field(data, "stop", str, list)
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > 4 or not all(isinstance(each, str) for each in stops):
        raise invalid("stop", "Invalid 'stop': expected a string or up to 4 strings.")
    return tuple(each for each in stops if each)


def _include_usage(data: Json, stream: bool) -> bool:
    options = _field(data, "stream_options", dict)
    if options is None:
        return False
    if not stream:
        raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    return bool(_field(options, "include_usage", bool))


def _check_sampling(data: Json) -> None:
    """Sampling changes nothing here, but it must be possible."""
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2)):
        value = _field(data, name, int, float)
        if value is not None and not low <= value <= high:
            raise invalid(name, f"Invalid '{name}': {value} is not between {low} and {high}.", "decimal_out_of_range")


def _effort(data: Json) -> str:
    effort = _field(data, "reasoning_effort", str) or "medium"
    if effort not in EFFORTS:
        raise invalid("reasoning_effort", f"Invalid 'reasoning_effort': '{effort}' is none of {', '.join(EFFORTS)}.")
    return str(effort)


def _messages(data: Json) -> list[Json]:
    messages = _field(data, "messages", list)
    if messages is None:
        raise missing("messages")
    if not messages:
        raise invalid("messages", "Invalid 'messages': empty array. Expected at least one message.", "empty_array")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    _check_tool_results(messages)
    return list(messages)


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise invalid(where, f"Invalid type for '{where}': expected an object.", "invalid_type")
    if message.get("role") not in _ROLES:
        raise invalid(f"{where}.role", f"Invalid value: '{message.get('role')}'. Supported are: {', '.join(_ROLES)}.")
    content = _field(message, "content", str, list)
    if content is None and message["role"] != "assistant":
        raise missing(f"{where}.content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        _check_part(part, f"{where}.content[{number}]")
    for call in _field(message, "tool_calls", list) or ():
        if not (isinstance(call, dict) and isinstance(call.get("id"), str) and isinstance(call.get("function"), dict)):
            raise invalid(f"{where}.tool_calls", "A tool call needs an 'id' and a 'function'.", "invalid_type")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal", "image_url"):
        raise invalid(where, f"Invalid value: '{kind}'. Supported are: text, image_url, refusal.")
    if kind == "image_url":
        image = part.get("image_url")
        if not (isinstance(image, dict) and isinstance(image.get("url"), str)):
            raise invalid(where, f"Invalid type for '{where}.image_url': expected an object with a 'url'.")
    elif not isinstance(part.get(kind), str):
        raise invalid(where, f"Invalid type for '{where}.{kind}': expected a string.", "invalid_type")


def _check_tool_results(messages: list[Json]) -> None:
    """Every call of a tool is answered by the messages right after it, and nothing else is."""
    waiting: set[Any] = set()
    for message in messages:
        if message["role"] == "tool":
            if _field(message, "tool_call_id", str) not in waiting:
                raise invalid(
                    "messages",
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                )
            waiting.discard(message["tool_call_id"])
        elif waiting:
            break
        else:
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    if waiting:
        unanswered = ", ".join(sorted(waiting))
        message_text = "An assistant message with 'tool_calls' must be followed by a tool message for each of them."
        raise invalid("messages", f"{message_text} Not answered: {unanswered}.")


def _tools(data: Json) -> list[Tool]:
    tools = []
    for index, entry in enumerate(_field(data, "tools", list) or ()):
        function = entry.get("function") if isinstance(entry, dict) else None
        if not (isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]):
            raise invalid(f"tools[{index}]", "A tool must be of type 'function' and have a name.")
        parameters = _field(function, "parameters", dict) or {"type": "object"}
        tools.append(Tool(function["name"], _field(function, "description", str) or "", parameters))
    return tools


def _callable(data: Json) -> tuple[tuple[Tool, ...], bool]:
    """The tools that may be called, and whether one of them must be."""
    tools = _tools(data)
    choice = _field(data, "tool_choice", str, dict)
    if choice is None:
        return tuple(tools), False
    if not tools:
        raise invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.")
    if isinstance(choice, dict):
        name = (_field(choice, "function", dict) or {}).get("name")
        named = tuple(tool for tool in tools if tool.name == name)
        if not named:
            raise invalid("tool_choice", f"Tool choice '{name}' not found in 'tools' parameter.")
        return named, True
    if choice not in ("none", "auto", "required"):
        raise invalid("tool_choice", f"Invalid value: '{choice}'. Supported are: none, auto, required.")
    return tuple(tools) if choice != "none" else (), choice == "required"


def _schema(data: Json, messages: list[Json]) -> Json | None:
    """The schema of the JSON that is asked for; None for plain text."""
    wanted = _field(data, "response_format", dict) or {"type": "text"}
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        if not any("json" in text_of(message).lower() for message in messages):
            raise invalid("messages", "'messages' must contain the word 'json' to use this 'response_format'.")
        return _ANY_OBJECT
    if kind != "json_schema":
        raise invalid("response_format", f"Invalid value: '{kind}'. Supported are: text, json_object, json_schema.")
    named = _field(wanted, "json_schema", dict)
    if named is None or not isinstance(named.get("schema"), dict):
        raise missing("response_format.json_schema.schema")
    return dict(named["schema"])


def _prompt_tokens(data: Json, messages: list[Json]) -> tuple[int, ...]:
    """Running totals: tools and answer format first, then message by message."""
    described = [data[name] for name in ("tools", "response_format") if data.get(name)]
    head = MESSAGE_TOKENS + sum(tokens.count(orjson.dumps(each).decode()) for each in described)
    return tuple(accumulate(map(_message_tokens, messages), initial=head))


def _message_tokens(message: Json) -> int:
    content = message.get("content")
    images = sum(part["type"] == "image_url" for part in content) if isinstance(content, list) else 0
    calls = sum(tokens.count(orjson.dumps(call["function"]).decode()) for call in message.get("tool_calls") or ())
    return MESSAGE_TOKENS + tokens.count(text_of(message)) + images * IMAGE_TOKENS + calls
