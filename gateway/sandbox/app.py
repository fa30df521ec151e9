"""The sandbox's ASGI app: chat completions, models, the bill, and the faults to come."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import orjson

from gateway.sandbox.answers import Answer, answers
from gateway.sandbox.bill import UNKNOWN_KEY, Attempt, Bill, Charge
from gateway.sandbox.chat_answer import ChatAnswer, Event
from gateway.sandbox.chat_request import ChatRequest, json_object, parse
from gateway.sandbox.errors import Refused, scripted
from gateway.sandbox.exchange import ClientGone, Exchange, Receive, Scope, Send
from gateway.sandbox.faults import Fault, Faults
from gateway.sandbox.models import MODELS, Usage
from gateway.sandbox.prompt_cache import PromptCache
from gateway.sandbox.usage_shapes import usage_shape

Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_RELEASED_AT = 1_767_225_600


class Sandbox:
    """The provider. With a `token` every request must bear it; without one all are welcome."""

    def __init__(self, bill: Bill, token: bytes | None) -> None:
        self._bill = bill
        self._authorization = None if token is None else b"Bearer " + token
        self._faults = Faults()
        self._cache = PromptCache()
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/bill"): self._show_bill,
            ("GET", "/bill/attempts"): self._show_attempts,
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._clear_faults,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal in OpenAI's shape."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._handler(exchange)(exchange)
        except Refused as refusal:
            await _refuse(exchange, refusal)
        except ClientGone:
            return

    def _handler(self, exchange: Exchange) -> Handler:
        given = exchange.headers.get(b"authorization", b"")
        if self._authorization is not None and not hmac.compare_digest(given, self._authorization):
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")
        handler = self._routes.get((exchange.method, exchange.path))
        if handler is None:
            raise Refused(404, f"Invalid URL ({exchange.method} {exchange.path}).")
        return handler

    async def _chat(self, exchange: Exchange) -> None:
        request = parse(await exchange.body())
        fault = self._faults.take(request.model.name, request.prompt)
        if fault.status is not None:
            await exchange.while_listened_to(asyncio.sleep(fault.stall))
            raise scripted(fault.status, fault.retry_after)
        choices = answers(request, fault.length)
        usage = _usage(request, choices, self._cache.read(request))
        shape = usage_shape(usage, fault.usage)
        answer = ChatAnswer(request.model, choices, shape, int(time.time()), fault.usage_twice)
        with Charge(self._bill, _attempt(exchange, request, usage), fault.policy) as charge:
            if request.stream:
                work = _stream(exchange, answer, fault, charge, include_usage=request.include_usage)
            else:
                work = _whole(exchange, answer, fault, charge)
            if request.stream or fault.stall:
                await exchange.while_listened_to(work)
            else:
                await work

    async def _models(self, exchange: Exchange) -> None:
        models = [
            {"id": name, "object": "model", "created": _RELEASED_AT, "owned_by": "paymaster-sandbox"} for name in MODELS
        ]
        await _reply(exchange, orjson.dumps({"object": "list", "data": models}))

    async def _show_bill(self, exchange: Exchange) -> None:
        await _reply(exchange, orjson.dumps(self._bill.summary()))

    async def _show_attempts(self, exchange: Exchange) -> None:
        await _reply(exchange, self._bill.lines())

    async def _add_fault(self, exchange: Exchange) -> None:
        self._faults.add(json_object(await exchange.body()))
        await _reply(exchange, b"{}")

    async def _clear_faults(self, exchange: Exchange) -> None:
        self._faults.clear()
        await _reply(exchange, b"{}")


def _usage(request: ChatRequest, choices: list[Answer], cached_tokens: int) -> Usage:
    return Usage(
        input_tokens=request.input_tokens,
        output_tokens=sum(answer.output_tokens for answer in choices),
        cached_input_tokens=cached_tokens,
        reasoning_tokens=sum(answer.reasoning_tokens for answer in choices),
    )


def _attempt(exchange: Exchange, request: ChatRequest, usage: Usage) -> Attempt:
    attempt_id = exchange.headers.get(b"x-paymaster-attempt") or exchange.headers.get(b"x-client-request-id")
    key = exchange.headers.get(b"x-paymaster-key")
    return Attempt(
        id=None if attempt_id is None else attempt_id.decode("latin-1"),
        key=UNKNOWN_KEY if key is None else key.decode("latin-1"),
        model=request.model,
        usage=usage,
    )


async def _reply(exchange: Exchange, body: bytes) -> None:
    """A whole answer."""
    await exchange.start(200, [_JSON, _length(body)])
    await exchange.write(body, last=True)


async def _refuse(exchange: Exchange, refusal: Refused) -> None:
    body = refusal.body()
    headers = [_JSON, _length(body)]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", refusal.retry_after.encode()))
    await exchange.start(refusal.status, headers)
    await exchange.write(body, last=True)


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


async def _whole(exchange: Exchange, answer: ChatAnswer, fault: Fault, charge: Charge) -> None:
    """Send the answer in one piece, or break it off."""
    if fault.stall:
        await asyncio.sleep(fault.stall)
    body = answer.whole()
    if fault.breaks is None:
        charge.complete()
        await _reply(exchange, body)
        return
    charge.break_off()
    if fault.breaks == "truncate":
        await _reply(exchange, body[: len(body) // 2])
    else:
        if fault.breaks_after:
            await exchange.start(200, [_JSON, _length(body)])
            await exchange.write(body[: len(body) // 2])
        await exchange.drop(reset=fault.breaks == "reset")


async def _stream(exchange: Exchange, answer: ChatAnswer, fault: Fault, charge: Charge, *, include_usage: bool) -> None:
    """Send the answer event by event, each on its own, until its end or until the fault breaks it off."""
    for number, event in enumerate(answer.events(include_usage=include_usage)):
        if fault.stall and number == fault.stall_after:
            await asyncio.sleep(fault.stall)
        if fault.breaks and number == fault.breaks_after:
            charge.break_off()
            await _break_off(exchange, fault, event, started=number > 0)
            return
        if number == 0:
            await exchange.start(200, _STREAM_HEAD)
        elif not event.closing:
            await asyncio.sleep(fault.pace)
        if event.closing:
            charge.complete()
        await exchange.write(event.data)
        charge.delivered_tokens += event.tokens
    await exchange.write(b"", last=True)


async def _break_off(exchange: Exchange, fault: Fault, event: Event, *, started: bool) -> None:
    """End a stream before `event`, as the fault wants it."""
    if not started and fault.breaks != "cut":
        await exchange.start(200, _STREAM_HEAD)
    if fault.breaks == "truncate":
        await exchange.write(b"", last=True)
        return
    if fault.breaks == "half":
        await exchange.write(event.data[: len(event.data) // 2])
    await exchange.drop(reset=fault.breaks == "reset")
