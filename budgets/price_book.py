"""The price book: what the models of this world cost, as `python -m budgets.pricing refresh` wrote it down.

The file has one model per line, so that a look-up is a search for its line and an idle process holds the text only.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from budgets.pricing import Price

BOOK = Path(__file__).with_name("prices.json")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the book knows of one model."""

    price: Price
    max_input_tokens: int | None
    max_output_tokens: int | None
    encoding: str | None
    """The name of its tiktoken encoding, only where OpenAI declares one."""


class PriceBook:
    """Prices by provider and model. Names are exact: a snapshot the book does not list has no price."""

    def __init__(self, text: bytes) -> None:
        """The book as `render` in budgets/price_table.py writes it.

        Raises ValueError for a text that is not as it was written: one wrong line condemns all.
        """
        head, _, models = text.partition(b"\n")
        if not models or json.loads(head.rstrip(b",") + b"}").get("digest") != digest(models):
            raise ValueError("the price book is damaged; make it anew, and put your own prices in the configuration")
        self.version = digest(models)[:12]
        """Names the prices, not the file: every reservation keeps the version it was priced with."""
        self._models = models

    @classmethod
    def load(cls, path: Path = BOOK) -> "PriceBook":
        """The book in a file, by default the one that belongs to this version."""
        return cls(path.read_bytes())

    def find(self, provider: str, model: str) -> ModelFacts | None:
        """What the book knows of a provider's model, None where it does not list it.

        `model` may repeat the provider (`groq/llama-3.1-8b-instant` at `groq`); at the provider `litellm` it names it.
        """
        name = model if model.startswith(f"{provider}/") or provider == "litellm" else f"{provider}/{model}"
        start = self._models.find(b"\n" + json.dumps(name).encode() + b":")
        return None if start < 0 else _facts(self._models[start : self._models.index(b"\n", start + 1)])

    def __iter__(self) -> Iterator[tuple[str, ModelFacts]]:
        """Every model as `provider/model`, with its facts."""
        for line in self._models.splitlines()[1:-1]:
            yield json.loads(line[: line.index(b":{")]), _facts(line)


def digest(models: bytes) -> str:
    """What the head of the file says of the lines below it."""
    return hashlib.sha256(models).hexdigest()


def _facts(line: bytes) -> ModelFacts:
    record = json.loads(line[line.index(b":{") + 1 :].rstrip(b","))
    return ModelFacts(
        max_input_tokens=record.pop("max_input", None),
        max_output_tokens=record.pop("max_output", None),
        encoding=record.pop("encoding", None),
        price=Price.from_usd_per_million(record),
    )
