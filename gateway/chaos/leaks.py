"""P5: no hold is left anywhere, after everything that was done to a gateway and one lease of quiet."""

from collections.abc import Mapping

from gateway.chaos.outcome import Outcome
from gateway.chaos.world import Key, NeverCame, World

CLAIM = "No hold leaks: after all faults, quiet and one lease, nothing is held in any period of any scope."


class Leaks:
    """Looks for holds at the end of every world."""

    def __init__(self) -> None:
        self.outcome = Outcome("P5", CLAIM)
        self._worlds = self._accounts = self._scopes = 0
        self._longest = 0.0

    @property
    def has_looked(self) -> bool:
        return self._worlds > 0

    async def look(self, world: World) -> None:
        """Wait for the end of what ends by itself, and note what does not."""
        self._worlds += 1
        for account, keys in _by_account(world).items():
            self._accounts += 1
            scopes = world.scopes(*keys)
            self._scopes += len(scopes)
            try:
                await world.quiet(*keys)
                self.outcome.violate(*(f"{account}: {what}" for what in await world.books.left(account, scopes)))
            except NeverCame as exc:
                self.outcome.violate(f"{account}: {exc}")
        self._longest = max(self._longest, world.longest_quiet)
        self.outcome.did = {
            "worlds": self._worlds,
            "accounts": self._accounts,
            "scopes": self._scopes,
            "longest wait, s": round(self._longest, 1),
            "scopes that hold something": self.outcome.violated,
        }


def _by_account(world: World) -> Mapping[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in world.keys:
        found.setdefault(key.account, []).append(key)
    return found
