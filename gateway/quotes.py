"""What an attempt may cost at most, and will probably cost; and the bytes that go with that promise.

The hold and the body belong together: the output cap that is priced is the one written into the request.
"""

from dataclasses import dataclass, replace

from budgets.errors import UnpricedModel
from budgets.estimate import Bounds, counted_bound, input_bound, texts, unpriceable, uses_audio, worst_case
from budgets.instalments import Instalments
from budgets.ledger import Ledger, Reservation
from budgets.money import NanoUSD
from budgets.pricing import cost
from budgets.tokens import TokenCounter
from budgets.usage import Usage
from gateway.auth import Caller
from gateway.catalog import Target
from gateway.errors import UnboundedCost
from gateway.settings import LedgerSettings
from gateway.wire import chat
from gateway.wire.request import ModelRequest
from gateway.wire.strict_json import dump

EXPECTED_OUTPUT_TOKENS = 400
"""What an answer comes to on average, for the guess of its cost; no hold rests on it."""
BYTES_PER_TOKEN = 4
"""Of ordinary text, for the same guess."""
OUR_BYTES = 256
"""What a request may grow by before it is sent: the provider's name of the model, the output cap, stream options."""
BELIEVABLE = 2_000_000
"""Tokens: a usage of up to so many is believed, and paid, though it should have been less; more is nonsense."""
UNBOUNDED = 10**9
"""Tokens no request can have: the bound where a caller without a cap may send what cannot be bounded."""
REASONING_FIELDS = ("reasoning_effort", "reasoning", "thinking")
"""What asks for output that may be billed without being shown: nothing that is counted on the way."""


@dataclass(slots=True)
class Quote:
    """A request as it will be sent to one target, and the most it can cost there."""

    request: ModelRequest
    target: Target
    body: bytes
    bounds: Bounds
    amount: NanoUSD
    """0 where the price is unknown, which only callers without a cap are offered."""
    instalment: int | None = None
    """The output tokens that are held for at first, and with every top-up; None where all of `amount` is held."""

    @property
    def hold(self) -> NanoUSD:
        """What is to be held before the request is sent."""
        return self.amount if self.instalment is None else self.costs_at_most(self.instalment)

    def costs_at_most(self, output_tokens: int) -> NanoUSD:
        """The most that an answer of so many tokens can cost, all of its choices together."""
        assert self.target.price is not None  # nothing is promised, or held, where it is not known
        return worst_case(self.target.price, replace(self.bounds, output_tokens=output_tokens, n=1))

    def instalments(self, ledger: Ledger, reservation: Reservation) -> Instalments | None:
        """What keeps the hold ahead of a stream's output; None where all of `amount` is held."""
        if self.instalment is None:
            return None
        most_output = self.bounds.output_tokens * self.bounds.n
        return Instalments(ledger, reservation, self.costs_at_most, self.instalment, most_output)

    def cost(self, usage: Usage) -> NanoUSD | None:
        """What `usage` costs, None where the price is unknown. Raises AbsurdUsage for what cannot be true."""
        most_output = self.bounds.output_tokens * self.bounds.n
        usage.within(max(self.bounds.input_tokens, BELIEVABLE), max(most_output, BELIEVABLE))
        return cost(usage, self.target.price) if self.target.price else None

    def estimate(self, output_tokens: int) -> NanoUSD:
        """Our own idea of the cost of an attempt whose usage was never seen; at most the hold."""
        if self.target.price is None:
            return 0
        usage = Usage(len(self.body) // BYTES_PER_TOKEN, min(output_tokens, self.bounds.output_tokens))
        return min(self.amount, cost(usage, self.target.price))


class Quotes:
    """Makes quotes by the ledger's policy."""

    def __init__(self, policy: LedgerSettings, counter: TokenCounter) -> None:
        self._policy = policy
        self._counter = counter

    def highest_cost(self, request: ModelRequest, target: Target) -> NanoUSD | None:
        """About what `quote` would hold, without making the body; None where the price or the input has no bound."""
        deployment = target.deployment
        size_bytes = request.size_bytes + OUR_BYTES
        input_tokens = input_bound(request.body, size_bytes, deployment.model, deployment.context_window)
        if target.price is None or input_tokens is None:
            return None
        bounds = self._bounds(request, input_tokens, self._output_cap(request, target))
        first = _instalment(request, target, bounds)
        return worst_case(target.price, bounds if first is None else replace(bounds, output_tokens=first, n=1))

    def quote(self, request: ModelRequest, target: Target, caller: Caller) -> Quote:
        """A request priced by the cheap, safe bound of its input.

        Raises UnpricedModel or UnboundedCost for a caller with a cap where the most it can cost is not known.
        """
        cap = self._output_cap(request, target)
        written = cap if self._policy.inject_output_cap or request.output_cap is not None else None
        body = dump(chat.upstream_body(request, target.deployment.model, target.cap_field, written))
        window = target.deployment.context_window
        input_tokens = input_bound(request.body, len(body), target.deployment.model, window)
        if caller.capped:
            _refuse_unbounded(request, target, input_tokens)
        bounds = self._bounds(request, input_tokens or UNBOUNDED, cap)
        amount = self._amount(target, bounds if input_tokens else None)
        instalment = _instalment(request, target, bounds) if caller.capped else None
        return Quote(request, target, body, bounds, amount, instalment)

    async def exact(self, quote: Quote) -> NanoUSD | None:
        """The hold by counted tokens, for when the cheap bound is refused; None where they cannot be counted.

        The quote promises no more than that from then on.
        """
        body, target = quote.request.body, quote.target
        tokens = await self._counter.count(texts(body), target.encoding)
        counted = None if tokens is None else counted_bound(body, tokens, target.deployment.model)
        if counted is None or counted >= quote.bounds.input_tokens:
            return None
        quote.bounds = replace(quote.bounds, input_tokens=counted)
        quote.amount = self._amount(target, quote.bounds)
        return quote.hold

    def _bounds(self, request: ModelRequest, input_tokens: int, output_cap: int) -> Bounds:
        tier = request.body.get("service_tier")
        return Bounds(input_tokens, output_cap, request.n, tier, uses_audio(request.body))

    def _amount(self, target: Target, bounds: Bounds | None) -> NanoUSD:
        return worst_case(target.price, bounds) if target.price and bounds else 0

    def _output_cap(self, request: ModelRequest, target: Target) -> int:
        """Tokens: what the caller asked for, or else the policy's cap, but never more than the model can do."""
        model_most = target.max_output_tokens or target.deployment.context_window
        asked = request.output_cap
        if asked is None:
            asked = self._policy.output_cap if self._policy.inject_output_cap else model_most or UNBOUNDED
        return min(asked, target.max_output_tokens or asked)


def _instalment(request: ModelRequest, target: Target, bounds: Bounds) -> int | None:
    """The output tokens of each instalment; None where the whole answer is held for, as is usual."""
    if target.instalment is None or not request.stream or bounds.output_tokens * bounds.n <= target.instalment:
        return None
    return None if any(request.body.get(name) for name in REASONING_FIELDS) else target.instalment


def _refuse_unbounded(request: ModelRequest, target: Target, input_tokens: int | None) -> None:
    """A caller with a cap is only offered what has an upper bound."""
    if target.price is None:
        raise UnpricedModel(target.deployment.id)
    field = unpriceable(request.body, target.price)
    if field is not None:
        raise UnboundedCost(f"the cost of `{field}` is not part of the model's price")
    if input_tokens is None:
        raise UnboundedCost(
            f"files and sound have no size in tokens, and the context of {target.deployment.id} is unknown"
        )
