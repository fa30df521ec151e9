from typing import Any

import orjson

from gateway.sandbox.chat_request import ChatRequest, parse
from gateway.sandbox.prompt_cache import PromptCache

SYSTEM = {"role": "system", "content": "word " * 1100}


def asking(*contents: str, model: str = "sandbox-large", **fields: Any) -> ChatRequest:
    messages = [SYSTEM, *({"role": "user", "content": content} for content in contents)]
    return parse(orjson.dumps({"model": model, "messages": messages} | fields))


def test_a_prompt_is_cached_from_its_second_reading_on() -> None:
    cache = PromptCache()

    assert cache.read(asking("hi")) == 0
    assert cache.read(asking("hi")) == 1024


def test_a_conversation_that_goes_on_finds_its_beginning_cached() -> None:
    cache = PromptCache()
    cache.read(asking("word " * 400))

    request = asking("word " * 400, "and then?")
    assert cache.read(request) == request.prompt_tokens[-2] // 128 * 128 == 1408


def test_another_beginning_is_not_cached() -> None:
    cache = PromptCache()
    cache.read(asking("hi"))

    other = orjson.dumps({"model": "sandbox-large", "messages": [{"role": "system", "content": "term " * 1100}]})
    assert cache.read(parse(other)) == 0


def test_short_prompts_and_models_without_a_cache_are_never_cached() -> None:
    cache = PromptCache()
    short = parse(orjson.dumps({"model": "sandbox-large", "messages": [{"role": "user", "content": "hi"}]}))

    assert [cache.read(short), cache.read(short)] == [0, 0]
    assert [cache.read(asking("hi", model="sandbox-small")) for _ in range(2)] == [0, 0]


def test_only_so_many_prompts_are_remembered() -> None:
    cache = PromptCache()
    first, last = (asking(*[name] * 200, model="sandbox-large") for name in ("first", "last"))
    assert cache.read(first) == 0
    for number in range(50):
        cache.read(asking(*[str(number)] * 200))

    assert cache.read(first) == 1024, "only the system prompt that all of them share"
    assert cache.read(last) == 1024
    assert cache.read(last) > 1024
