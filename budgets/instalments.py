"""A stream's hold in instalments: it grows with what is delivered, instead of covering the longest answer at once.

Sound only where an answer that is cut costs what was delivered of it: there the stream ends where the budget does.
"""

from collections.abc import Callable
from dataclasses import astuple

from budgets.errors import BudgetExceeded, InstalmentRefused
from budgets.ledger import Ledger, Reservation
from budgets.money import NanoUSD


class Instalments:
    """Keeps one attempt's hold ahead of its output.

    `price` is the most that so many output tokens can cost, the input included. `step` is an instalment in tokens, the
    first of which the reservation holds; `most` is how many tokens the whole answer can have.
    """

    def __init__(
        self, ledger: Ledger, reservation: Reservation, price: Callable[[int], NanoUSD], step: int, most: int
    ) -> None:
        self._ledger = ledger
        self._reservation = reservation
        self._price = price
        self._step = step
        self._most = most
        self._covered = step

    async def cover(self, tokens: int) -> None:
        """Hold what so many output tokens cost, and half an instalment more: for those that are already on their way.

        Raises InstalmentRefused where a scope cannot cover that, or LedgerUnavailable; then the answer is to be cut.
        """
        wanted = min(tokens + self._step // 2, self._most)
        if wanted <= self._covered:
            return
        instalments = -(-(wanted - self._covered) // self._step)
        covered = min(self._covered + instalments * self._step, self._most)
        more = self._price(covered) - self._reservation.attempt.amount
        if more > 0:
            await self._extend(more)
        self._covered = covered

    async def _extend(self, more: NanoUSD) -> None:
        try:
            await self._ledger.extend(self._reservation, more)
        except BudgetExceeded as exc:
            raise InstalmentRefused(*astuple(exc)) from exc
