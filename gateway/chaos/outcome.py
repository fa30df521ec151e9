"""What a promise came to when it was put to the proof."""

from dataclasses import dataclass, field

MOST_VIOLATIONS = 20
"""That are kept in words; all are counted."""


@dataclass(slots=True)
class Outcome:
    """One promise's row. It is kept where something was done and nothing was violated."""

    promise: str
    """`P1`."""
    claim: str
    """What is promised, in a sentence."""
    did: dict[str, int | float | str] = field(default_factory=dict)
    """What was done and measured: each figure by its name, in the order to be shown."""
    violations: list[str] = field(default_factory=list)
    """What was seen that must not be, in words."""
    violated: int = 0
    """How often; more than `violations` has room for."""

    @property
    def kept(self) -> bool:
        return not self.violated

    def violate(self, *what: str) -> None:
        """Note what must not be."""
        self.violated += len(what)
        self.violations += what[: max(0, MOST_VIOLATIONS - len(self.violations))]

    def expect(self, right: bool, otherwise: str) -> None:
        """Note `otherwise` unless `right`."""
        if not right:
            self.violate(otherwise)
