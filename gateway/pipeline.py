"""The one path every model request takes, and the only way to an upstream."""

from functools import partial

from budgets.errors import StaleKey
from budgets.ledger import Attempt, Ledger, reserved
from gateway.auth import Caller, Callers
from gateway.errors import CallerGone, ModelForbidden, ModelNotFound
from gateway.ids import sequential_ids
from gateway.planner import Planner, Route
from gateway.quotes import Quote, Quotes
from gateway.relay import Client, Relay
from gateway.telemetry.record import RequestRecord
from gateway.upstream.failover import Failover
from gateway.upstream.http import Call, Upstream
from gateway.wire import chat
from gateway.wire.request import ModelRequest


class Pipeline:
    """Who asks, where it may go, what it may cost; then attempts, each of which holds and pays for itself."""

    def __init__(
        self, callers: Callers, planner: Planner, quotes: Quotes, ledger: Ledger, failover: Failover, upstream: Upstream
    ) -> None:
        self._callers = callers
        self._planner = planner
        self._quotes = quotes
        self._ledger = ledger
        self._failover = failover
        self._upstream = upstream
        self._new_id = sequential_ids("")

    async def chat(self, client: Client, record: RequestRecord) -> None:
        """Answer a chat completion. Every error of the packages below may come out; the edge puts it into words."""
        caller = await self._callers.identify(client.headers)
        record.caller(caller.record.id, caller.record.name, caller.record.account)
        request = chat.parse_request(await client.body())
        record.asked(request.model, stream=request.stream)
        try:
            await self._respond(client, request, caller, record)
        except StaleKey as stale:  # the key has changed since it was read: plan once more with what it is now
            await self._respond(client, request, self._callers.refreshed(caller, stale), record)

    async def _respond(self, client: Client, request: ModelRequest, caller: Caller, record: RequestRecord) -> None:
        route = self._plan(request, caller)
        record.planned(route.alias, route.plan.tier, route.plan.reason)
        relay = Relay(client, route, record, self._ledger)
        async for attempt in self._failover.attempts(route.plan, record.attempt):
            with attempt as candidate:
                if client.gone:
                    raise CallerGone
                quote = self._quotes.quote(request, route.targets[candidate.deployment.id], caller)
                record.tried(candidate.deployment.id, candidate.deployment.provider_name)
                hold = self._attempt(quote, caller, route.price_version)
                async with reserved(self._ledger, hold, partial(self._quotes.exact, quote)) as reservation:
                    call = _call(quote, caller, reservation.attempt)
                    reservation.estimator = quote.estimate
                    attempt.sent()
                    record.sent()
                    await self._upstream.send(call, reservation, client, partial(relay.answer, quote, reservation))

    def _plan(self, request: ModelRequest, caller: Caller) -> Route:
        try:
            route = self._planner.plan(request, self._ledger.remaining(caller.record.id))
        except ModelNotFound as exc:
            raise ModelNotFound(exc.model, tuple(filter(caller.may_use, exc.known))) from exc
        if not caller.may_use(request.model):
            raise ModelForbidden(request.model, caller.record.models)
        return route

    def _attempt(self, quote: Quote, caller: Caller, price_version: str) -> Attempt:
        account = caller.record.account
        return Attempt(
            id=f"att_{account}_{self._new_id()}",
            account=account,
            key_id=caller.record.id,
            key_version=caller.version,
            scopes=caller.scopes,
            amount=quote.hold,
            capped=caller.capped,
            price_version=price_version,
            model=quote.target.deployment.id,
        )


def _call(quote: Quote, caller: Caller, attempt: Attempt) -> Call:
    """The attempt's id goes along, so that the provider's records can be matched with ours."""
    target = quote.target
    headers = {**target.headers, "x-client-request-id": attempt.id}
    if target.tells_keys:
        headers |= {"x-paymaster-attempt": attempt.id, "x-paymaster-key": caller.record.id}
    url = f"{target.url}/chat/completions"
    return Call(target.deployment.provider_name, url, headers, quote.body, target.drains)
