"""An upstream's answer on its way to the caller, and its cost on its way to the reservation."""

from collections.abc import Callable, Mapping
from typing import Protocol

from budgets.errors import AbsurdUsage
from budgets.instalments import Instalments
from budgets.ledger import Ledger, Reservation
from budgets.money import NanoUSD, to_usd
from budgets.pricing import cost
from budgets.usage import Usage
from gateway.auth import Headers
from gateway.errors import UpstreamFailed
from gateway.planner import Route
from gateway.quotes import BYTES_PER_TOKEN, Quote
from gateway.telemetry.record import RequestRecord
from gateway.upstream.http import Answer
from gateway.upstream.refusals import redacted
from gateway.wire import chat
from gateway.wire.chat_stream import ChatStream, StreamError
from gateway.wire.errors import InvalidAnswer


class Client(Protocol):
    """The caller's side of a request; `gateway/api/exchange.py` is it over HTTP."""

    headers: Headers
    started: bool
    gone: bool

    async def body(self) -> bytes: ...
    def when_gone(self, act: Callable[[], None] | None) -> None: ...
    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None: ...
    async def start_stream(self, headers: Mapping[str, str]) -> None: ...
    async def write(self, chunk: bytes) -> None: ...
    async def end(self) -> None: ...


class Relay:
    """Passes one request's answer on. Whatever happens, `reservation` knows the cost if the usage was seen."""

    def __init__(self, client: Client, route: Route, record: RequestRecord, ledger: Ledger) -> None:
        self._client = client
        self._route = route
        self._record = record
        self._ledger = ledger

    async def answer(self, quote: Quote, reservation: Reservation, answer: Answer) -> None:
        """Relay `answer` to the caller. Raises UpstreamFailed for an answer that is broken or ends early.

        A stream that is held in instalments may also end with InstalmentRefused or LedgerUnavailable.
        """
        relay = self._stream if quote.request.stream else self._whole
        try:
            await relay(answer, quote, reservation)
        except (InvalidAnswer, StreamError) as exc:
            provider = quote.target.deployment.provider_name
            raise UpstreamFailed(provider, "garbage", redacted(str(exc)), streaming=self._client.started) from exc

    async def _whole(self, answer: Answer, quote: Quote, reservation: Reservation) -> None:
        body = await answer.body()
        self._record.first_byte()
        reservation.delivered = len(body) // BYTES_PER_TOKEN
        self._record.response_model, usage = chat.read_answer(body)
        self._book(usage, quote, reservation)
        headers = self._headers(quote)
        if self._record.cost is not None:
            headers["x-paymaster-cost-usd"] = to_usd(self._record.cost)
        await self._client.answer(200, {"content-type": "application/json", **headers}, body)

    async def _stream(self, answer: Answer, quote: Quote, reservation: Reservation) -> None:
        if not answer.content_type.startswith("text/event-stream"):
            raise InvalidAnswer(f"{answer.content_type[:60] or 'something'} instead of a stream of events")
        instalments = quote.instalments(self._ledger, reservation)
        stream = ChatStream(wants_usage=quote.request.wants_usage, n=quote.request.n, counts=instalments is not None)
        try:
            while not stream.done and (chunk := await answer.read()) is not None:
                await self._pass(stream.feed(chunk), stream, quote, instalments)
            await self._pass(stream.finish(), stream, quote, instalments)
        finally:
            reservation.delivered = stream.events
            self._record.response_model = stream.response_model
            self._book(stream.usage if stream.complete else None, quote, reservation)
        await self._client.end()
        await answer.linger()

    async def _pass(self, events: bytes, stream: ChatStream, quote: Quote, instalments: Instalments | None) -> None:
        if instalments is not None:
            await instalments.cover(stream.most_tokens)
        if not events:
            return
        if not self._client.started:
            self._record.first_byte()
            await self._client.start_stream(self._headers(quote))
        await self._client.write(events)

    def _book(self, usage: Usage | None, quote: Quote, reservation: Reservation) -> None:
        """Tell the reservation what the usage costs. A usage nobody can believe leaves the cost unknown."""
        if usage is None:
            return
        try:
            spent = quote.cost(usage)
        except AbsurdUsage as exc:
            self._record.error_type = f"absurd_usage:{exc.field}"
            return
        reservation.spent = spent or 0
        if spent is not None and spent > reservation.attempt.amount:
            self._record.error_type = "overrun"
        self._record.booked(usage, spent, self._baseline(usage))

    def _baseline(self, usage: Usage) -> NanoUSD | None:
        """What the same usage would have cost on the route's strongest model."""
        baseline = self._route.baseline
        return cost(usage, baseline.price) if baseline and baseline.price else None

    def _headers(self, quote: Quote) -> dict[str, str]:
        route = f"{self._route.alias}/{self._route.plan.tier}" if self._route.alias else "by-name"
        return {"x-paymaster-model": quote.target.deployment.id, "x-paymaster-route": route}
