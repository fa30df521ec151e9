"""Usage: the tokens an upstream billed for one attempt, in one normal form for all providers."""

from dataclasses import dataclass, fields
from operator import attrgetter

from budgets.errors import AbsurdUsage


@dataclass(slots=True)
class Usage:
    """Tokens of one attempt. Totals include their parts, as in OpenAI's convention.

    `cache_read_input_tokens`, `cache_creation_input_tokens` and `audio_input_tokens` are parts of `input_tokens`;
    `reasoning_output_tokens` and `audio_output_tokens` are parts of `output_tokens`.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    """The part of `cache_creation_input_tokens` that is kept for an hour, which is dearer (Anthropic)."""
    audio_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    audio_output_tokens: int = 0
    service_tier: str | None = None
    """The tier the answer names (`default`, `flex`, `priority`, `batch`), which sets the price."""

    def within(self, most_input: int, most_output: int) -> "Usage":
        """This usage, if it can be true of a request that could use so many tokens; only such a usage may be priced.

        The fields may hold whatever an upstream sent: a bool, a float, a string or a negative number is refused like
        a number above its bound and a part above its total.
        Raises AbsurdUsage naming the first field that is wrong; the caller then books the whole hold.
        """
        counts = _counts_of(self)
        if set(map(type, counts)) != {int} or min(counts) < 0:
            raise AbsurdUsage(*self._first_malformed())
        if self.service_tier is not None and not isinstance(self.service_tier, str):
            raise AbsurdUsage("service_tier", self.service_tier)
        for name, tokens, most in self._limits(most_input, most_output):
            if tokens > most:
                raise AbsurdUsage(name, tokens)
        return self

    def _first_malformed(self) -> tuple[str, object]:
        return next((name, value) for name in _COUNTS if type(value := getattr(self, name)) is not int or value < 0)

    def _limits(self, most_input: int, most_output: int) -> tuple[tuple[str, int, int], ...]:
        """Each count with the most it can be. Audio may have been read from the cache, so it has a limit of its own."""
        cached = self.cache_read_input_tokens + self.cache_creation_input_tokens
        spoken_or_thought = self.reasoning_output_tokens + self.audio_output_tokens
        return (
            ("input_tokens", self.input_tokens, most_input),
            ("output_tokens", self.output_tokens, most_output),
            ("cache_read_input_tokens", cached, self.input_tokens),
            ("cache_creation_1h_input_tokens", self.cache_creation_1h_input_tokens, self.cache_creation_input_tokens),
            ("audio_input_tokens", self.audio_input_tokens, self.input_tokens),
            ("reasoning_output_tokens", spoken_or_thought, self.output_tokens),
        )


_COUNTS = tuple(field.name for field in fields(Usage) if field.name != "service_tier")
_counts_of = attrgetter(*_COUNTS)
