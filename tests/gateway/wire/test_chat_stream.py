import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budgets.errors import AbsurdUsage
from budgets.usage import Usage
from gateway.wire import sse
from gateway.wire.chat_stream import ChatStream, StreamError

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = "data: [DONE]\n\n"
TRICKY = (
    '"usage":{"prompt_tokens":1}',
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    '{"error": {"message": "no"}}',
    "error",
    "\u2028\u2029\x85\x0b",
    "😀",
    "[DONE]",
    '"finish_reason": "stop"',
)
"""Text in an answer that looks like something else."""


def chunk(text: str | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m-1", "choices": [choice], **fields}


def usage_event(usage: Any = USAGE, **fields: Any) -> dict[str, Any]:
    return {**chunk(), "choices": [], "usage": usage, **fields}


def event(data: dict[str, Any] | str) -> str:
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def stream_of(*events: dict[str, Any] | str) -> bytes:
    return "".join(map(event, events)).encode()


def through(stream: bytes, *, wants_usage: bool = False, n: int = 1, size: int = 0) -> tuple[bytes, ChatStream]:
    """What a caller gets of a stream that comes in chunks of `size` bytes (0: at once) and ends; and the follower."""
    follower = ChatStream(wants_usage=wants_usage, n=n)
    size = size or len(stream) or 1
    passed = [follower.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    return b"".join([*passed, follower.finish()]), follower


def data_in(stream: bytes) -> list[bytes]:
    """The data of each event that has any."""
    return [data for event in sse.EventSplitter().feed(stream + b"\n\n") if (data := sse.data_of(event))]


def booked(follower: ChatStream) -> Usage | None:
    """The usage that may be settled."""
    return follower.usage if follower.complete else None


CONTENT = (chunk("Hel"), chunk("lo"), chunk(finish="stop"))
PLAIN = stream_of(*CONTENT, "[DONE]")
WITH_USAGE = stream_of(*CONTENT, usage_event(), "[DONE]")


@given(st.integers(1, 60))
def test_the_usage_is_read_whatever_the_chunks_are(size: int) -> None:
    passed, follower = through(WITH_USAGE, wants_usage=True, size=size)

    assert passed == WITH_USAGE
    assert booked(follower) == Usage(7, 3)


@given(st.integers(1, 60))
def test_the_usage_event_is_removed_where_the_caller_did_not_ask_for_it(size: int) -> None:
    passed, follower = through(WITH_USAGE, size=size)

    assert passed == PLAIN
    assert booked(follower) == Usage(7, 3)


@given(st.lists(st.sampled_from(TRICKY) | st.text(), max_size=5), st.integers(1, 40), st.booleans())
@example(list(TRICKY), 1, False)
def test_text_is_never_taken_for_what_it_looks_like(texts: list[str], size: int, wants_usage: bool) -> None:
    content = stream_of(*(chunk(text) for text in texts), chunk("."))
    ending = stream_of(chunk(finish="stop"), usage_event(), "[DONE]")

    passed, follower = through(content + ending, wants_usage=wants_usage, size=size)

    assert passed == content + (ending if wants_usage else stream_of(chunk(finish="stop"), "[DONE]"))
    assert booked(follower) == Usage(7, 3)


@pytest.mark.parametrize("text", TRICKY)
def test_text_that_looks_like_an_end_is_none(text: str) -> None:
    with pytest.raises(StreamError):
        through(stream_of(chunk(text)))


def test_tool_arguments_that_look_like_usage_are_passed_on() -> None:
    arguments = json.dumps({"usage": {"prompt_tokens": 10**9, "completion_tokens": 0}, "error": {"message": "x"}})
    call = chunk() | {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": arguments}}]}}]}
    stream = stream_of(call, chunk(finish="tool_calls"), "[DONE]")

    passed, follower = through(stream)

    assert (passed, follower.usage) == (stream, None)


def test_usage_that_is_not_at_the_top_is_not_the_answers() -> None:
    stream = stream_of(chunk(finish="stop", x_vendor={"usage": {"prompt_tokens": 1, "completion_tokens": 1}}), "[DONE]")

    passed, follower = through(stream)

    assert (passed, follower.usage) == (stream, None)


def running_sum(*sums: int) -> list[dict[str, Any]]:
    """As some providers send it: with every chunk."""
    return [chunk("a", usage={"prompt_tokens": 7, "completion_tokens": tokens}) for tokens in sums]


def test_the_last_one_counts_and_the_events_stay() -> None:
    last = chunk(finish="stop", usage={"prompt_tokens": 7, "completion_tokens": 3})
    stream = stream_of(*running_sum(1, 2), last, "[DONE]")

    passed, follower = through(stream)

    assert passed == stream
    assert booked(follower) == Usage(7, 3)


def test_it_is_not_the_whole_answers_before_that_is_finished() -> None:
    follower = ChatStream(wants_usage=False)

    follower.feed(stream_of(*running_sum(1, 2)))

    assert follower.usage == Usage(7, 2)
    assert booked(follower) is None


def test_with_several_answers_it_is_complete_when_all_of_them_are() -> None:
    follower = ChatStream(wants_usage=False, n=2)
    sums = {"prompt_tokens": 7, "completion_tokens": 3}

    follower.feed(stream_of(chunk(finish="stop", index=1, usage=sums)))
    assert booked(follower) is None

    follower.feed(stream_of(chunk(finish="stop", index=0, usage=sums)))
    assert booked(follower) == Usage(7, 3)


def test_usage_sent_twice_counts_once_and_the_last_one_wins() -> None:
    first, second = usage_event({"prompt_tokens": 7, "completion_tokens": 1}), usage_event()

    passed, follower = through(stream_of(*CONTENT, first, second, "[DONE]"))

    assert passed == PLAIN
    assert booked(follower) == Usage(7, 3)


def test_usage_before_the_finish_reason_counts_once_the_stream_has_ended_well() -> None:
    stream = stream_of(chunk("a", usage=USAGE), chunk(finish="stop"), "[DONE]")

    assert booked(through(stream)[1]) == Usage(7, 3)
    assert booked(through(stream.removesuffix(DONE.encode()))[1]) == Usage(7, 3)


def test_a_stream_without_usage_has_none() -> None:
    passed, follower = through(PLAIN)

    assert (passed, follower.usage) == (PLAIN, None)


def test_an_explicit_zero_is_a_usage() -> None:
    _, follower = through(stream_of(*CONTENT, usage_event({"prompt_tokens": 0, "completion_tokens": 0}), "[DONE]"))

    assert booked(follower) == Usage(0, 0)


@pytest.mark.parametrize("usage", [None, [], 3, "7"])
def test_a_usage_that_is_no_object_is_none(usage: Any) -> None:
    _, follower = through(stream_of(*CONTENT, usage_event(usage), "[DONE]"))

    assert follower.usage is None


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -7, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": "7", "completion_tokens": 3},
        {"prompt_tokens": 1e18, "completion_tokens": 3},
        {"prompt_tokens": 10**18, "completion_tokens": 3},
        {"prompt_tokens": 7},
        {},
        {"prompt_tokens": 7, "completion_tokens": None},
        {**USAGE, "prompt_tokens_details": {"cached_tokens": 8}},
        {**USAGE, "completion_tokens_details": {"reasoning_tokens": 4}},
    ],
)
def test_what_a_usage_says_is_kept_as_it_is_so_that_nonsense_can_be_told(usage: dict[str, Any]) -> None:
    _, follower = through(stream_of(*CONTENT, usage_event(usage), "[DONE]"))

    assert follower.usage is not None
    with pytest.raises(AbsurdUsage):
        follower.usage.within(1_000, 1_000)


def test_the_model_that_answered_is_known() -> None:
    assert through(PLAIN)[1].response_model == "m-1"


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\r\n\n"])
def test_line_ends_of_every_kind_are_understood(end: str) -> None:
    stream = WITH_USAGE.replace(b"\n\n", end.encode())

    passed, follower = through(stream, size=5)

    assert data_in(passed) == data_in(PLAIN)
    assert booked(follower) == Usage(7, 3)


def test_comments_and_other_fields_are_passed_on() -> None:
    stream = b": processing\n\n" + PLAIN.replace(b"data: {", b"event: chunk\ndata:{")

    assert through(stream)[0] == stream


@pytest.mark.parametrize(
    "data",
    [
        {"error": {"message": "overloaded", "code": 529}},
        {"error": "overloaded"},
        {"id": "1", "model": "m", "error": {"message": "overloaded"}},
        {"object": "error", "message": "overloaded", "code": 500},
        {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}},
        chunk(finish="error", error={"message": "overloaded"}),
    ],
)
@pytest.mark.parametrize(
    "form", ["data: {}\n\n", "data:{}\n\n", "event: error\ndata: {}\r\n\r\n", "event: error\rdata: {}\r\r:"]
)
def test_an_error_event_is_an_error_in_every_form(data: dict[str, Any], form: str) -> None:
    with pytest.raises(StreamError, match="overloaded"):
        through(stream_of(chunk("a")) + form.replace("{}", json.dumps(data)).encode() + DONE.encode())


@pytest.mark.parametrize("data", [{"error": {}, "choices": []}, {"error": None}, {"error": False}])
def test_an_error_that_is_none_is_passed_on(data: dict[str, Any]) -> None:
    stream = stream_of(data, *CONTENT, "[DONE]")

    assert through(stream)[0] == stream


def test_an_error_without_words_is_one() -> None:
    with pytest.raises(StreamError, match="did not explain"):
        through(stream_of({"error": {"code": 1}}))


def test_long_words_are_cut() -> None:
    with pytest.raises(StreamError) as caught:
        through(stream_of({"error": {"message": "x" * 10_000}}))

    assert len(str(caught.value)) < 600


def test_the_usage_that_comes_with_an_error_is_read() -> None:
    follower = ChatStream(wants_usage=False)

    with pytest.raises(StreamError):
        follower.feed(stream_of(chunk(finish="error", usage=USAGE, error={"message": "cut"})))

    assert booked(follower) == Usage(7, 3)


@pytest.mark.parametrize("stream", [b"", stream_of(chunk("Hel")), b": ping\n\n", stream_of(usage_event())])
def test_an_end_without_a_finish_reason_and_without_done_is_an_error(stream: bytes) -> None:
    with pytest.raises(StreamError, match="ended early"):
        through(stream)


def test_done_is_enough() -> None:
    stream = stream_of(chunk("Hel"), "[DONE]")

    assert through(stream)[0] == stream


def test_a_finish_reason_is_enough_and_done_is_added() -> None:
    assert through(stream_of(*CONTENT))[0] == PLAIN


def test_of_several_answers_each_needs_its_finish_reason() -> None:
    first, second = chunk(finish="stop", index=0), chunk(finish="length", index=1)

    with pytest.raises(StreamError, match="ended early"):
        through(stream_of(first), n=2)
    assert through(stream_of(first, second), n=2)[0] == stream_of(first, second, "[DONE]")


@pytest.mark.parametrize("index", [None, "0", [], 5])
def test_a_finish_reason_at_a_strange_place_breaks_nothing(index: Any) -> None:
    stream = stream_of(chunk(finish="stop", index=index), "[DONE]")

    assert through(stream)[0] == stream


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_final_blank_line_is_made_up_for(missing: int) -> None:
    passed, follower = through(WITH_USAGE[:-missing])

    assert sse.EventSplitter().feed(passed)[-1].strip() == DONE.strip().encode()
    assert booked(follower) == Usage(7, 3)


def test_a_last_usage_without_its_blank_line_is_read_and_removed() -> None:
    passed, follower = through(stream_of(*CONTENT, usage_event())[:-2])

    assert passed == PLAIN
    assert booked(follower) == Usage(7, 3)


@given(st.integers(len("data: {"), len(event(usage_event())) - 3))
def test_an_end_in_the_middle_of_an_event_is_no_clean_end(length: int) -> None:
    follower = ChatStream(wants_usage=True)
    follower.feed(stream_of(*CONTENT) + event(usage_event()).encode()[:length])

    with pytest.raises(StreamError, match="in the middle"):
        follower.finish()

    assert follower.usage is None


def test_what_comes_after_done_is_not_passed_on() -> None:
    assert through(PLAIN + stream_of(chunk("more"), usage_event(), "[DONE]"), wants_usage=True)[0] == PLAIN


def test_an_early_end_leaves_the_usage_that_was_seen() -> None:
    follower = ChatStream(wants_usage=False)
    follower.feed(stream_of(chunk("a"), usage_event()))

    with pytest.raises(StreamError):
        follower.finish()

    assert booked(follower) == Usage(7, 3)


def test_what_was_passed_on_is_counted() -> None:
    follower = ChatStream(wants_usage=False)

    follower.feed(stream_of(chunk("a"), chunk("b"), usage_event()) + b"data: half")

    assert follower.events == 2


# How much output it can be


def most_tokens(stream: bytes, size: int = 0) -> int:
    """The bound for a stream that comes in chunks of `size` bytes (0: at once)."""
    follower = ChatStream(wants_usage=False, counts=True)
    size = size or len(stream) or 1
    for at in range(0, len(stream), size):
        follower.feed(stream[at : at + size])
    return follower.most_tokens


def tool_call(arguments: str) -> dict[str, Any]:
    return chunk() | {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": arguments}}]}}]}


@given(st.lists(st.sampled_from(TRICKY) | st.text(), max_size=8), st.integers(1, 60))
@settings(deadline=None)
def test_no_tokenizer_makes_more_of_it_than_is_counted(texts: list[str], size: int) -> None:
    stream = stream_of(*(event for text in texts for event in (chunk(text), tool_call(text))))

    counted = most_tokens(stream, size)

    assert counted >= sum(2 * max(1, len(text.encode())) for text in texts)
    assert counted == most_tokens(stream)


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning", "refusal", "something_new"])
def test_output_is_counted_whatever_the_provider_calls_it(field: str) -> None:
    said = chunk() | {"choices": [{"index": 0, "delta": {field: "ten bytes!"}}]}

    assert most_tokens(stream_of(said)) == 10


def test_every_answer_of_a_chunk_is_counted() -> None:
    both = chunk() | {"choices": [{"index": index, "delta": {"content": "ten bytes!"}} for index in (0, 1)]}

    assert most_tokens(stream_of(both)) == 20


def test_a_chunk_without_text_counts_as_a_token() -> None:
    assert most_tokens(stream_of(*[chunk("")] * 7)) == 7


def test_log_probabilities_are_no_output() -> None:
    choice = {"index": 0, "delta": {"content": "ten bytes!"}, "logprobs": {"content": [{"token": "ten bytes!"}] * 20}}

    assert most_tokens(stream_of(chunk() | {"choices": [choice]})) == 10


def test_what_is_no_answer_is_not_counted() -> None:
    assert most_tokens(b": processing\n\n" + stream_of(usage_event(), "[DONE]")) == 0


@pytest.mark.parametrize(
    "data", ["no JSON", '{"choices": "\\ud800"}', '{"choices": ' + "[" * 2_000 + "]" * 2_000 + "}"]
)
def test_what_cannot_be_read_counts_with_every_byte(data: str) -> None:
    assert most_tokens(stream_of(data)) == len(data)


def test_deep_nesting_is_counted_too() -> None:
    content: Any = "ten bytes!"
    for _ in range(900):
        content = [content]

    assert most_tokens(stream_of(chunk() | {"choices": [{"delta": {"content": content}}]})) == 10


def test_nothing_is_counted_unasked() -> None:
    assert through(PLAIN)[1].most_tokens == 0
