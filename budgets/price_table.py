"""Makes the price book from the table inside the `litellm` package (MIT), which is read and never imported.

What is kept: models that chat, complete or embed, with every price of ours (budgets/pricing.py) and their limits. What
is dropped, and reported: every model whose bill could be more than those prices say. A price of zero is believed of
servers on the user's own machine only (`LOCAL_PROVIDERS`): elsewhere the table writes 0 for free, for "billed by
the hour" and for "not known" alike. A zero for one class of tokens of a priced model is taken as not said.
Discounts that depend on the hour are not taken: the full price is.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tiktoken.model import encoding_name_for_model

from budgets.price_book import BOOK, digest
from budgets.pricing import PICO_PER_USD, TOKENS_PER_UNIT, Price

TABLE = "model_prices_and_context_window_backup.json"
MODES = frozenset({"chat", "completion", "embedding", "responses"})
LOCAL_PROVIDERS = frozenset({"ollama", "lemonade"})
TIKTOKEN_PROVIDERS = frozenset({"openai", "azure"})
ENCODINGS = frozenset({"o200k_base", "cl100k_base"})
INCLUSIVE_PROVIDERS = frozenset({"xai"})
"""Providers whose longer step begins at its threshold and not above it."""

PROVIDERS = {
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai-embedding-models": "fireworks_ai",
    "text-completion-codestral": "codestral",
    "text-completion-openai": "openai",
}
"""The table's names for an API of a provider, and the provider; `vertex_ai-…` are all Vertex."""

CLASSES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "audio_output",
}
TIERS = {"priority": "priority", "flex": "flex", "batches": "batch", "balanced": "balanced", "ultrafast": "ultrafast"}
FIELD = re.compile(
    rf"({'|'.join(sorted(CLASSES, key=len, reverse=True))})(?:_above_(\d+)(k?)_tokens)?(?:_({'|'.join(TIERS)}))?"
)
KINDS = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
"""What a class costs that has no price of its own; only another price is worth a word in the book."""

BILLED_APART = {
    "input_cost_per_image_token": "input_cost_per_token",
    "output_cost_per_image_token": "output_cost_per_token",
    "input_cost_per_video_token": "input_cost_per_token",
    "output_cost_per_video_token": "output_cost_per_token",
    "input_cost_per_image": None,
    "input_cost_per_query": None,
    "input_cost_per_request": None,
    "input_cost_per_second": None,
    "input_cost_per_audio_per_second": None,
    "input_cost_per_video_per_second": None,
    "citation_cost_per_token": None,
}
"""Prices of what no usage of ours tells, unless they equal the class that covers it: such a model has no price here.

Not among them: what is billed only for fields that `budgets.estimate.unpriceable` names (searches, images going out).
"""
ALWAYS_SEARCHES = re.compile(r"-search(-|$)|deep-research|^perplexity/sonar")

Record = dict[str, Any]


class Unpriced(Exception):
    """Why a model has no price in the book; dropped and reported."""


def convert(table: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Record], list[str]]:
    """The records of the book by `provider/model`, and a line for every model that was dropped or is told apart.

    Raises ValueError where any price is negative or no number: a table with such an entry is not to be trusted.
    """
    records: dict[str, Record] = {}
    report: list[str] = []
    for name, entry in sorted(table.items()):
        if entry.get("mode") not in MODES or "litellm_provider" not in entry:
            continue
        try:
            _add(records, _key(name, entry["litellm_provider"]), _record(name, entry))
        except Unpriced as reason:
            report.append(f"{name}: {reason}")
    return dict(sorted(records.items())), report


def render(records: Mapping[str, Record], source: Mapping[str, str]) -> bytes:
    """The file: a head that names the source and seals what follows, then one model per line. Always the same bytes."""
    lines = ",\n".join(f"{json.dumps(name)}:{_dump(record)}" for name, record in records.items())
    models = f'"models":{{\n{lines}\n}}}}\n'.encode()
    head = _dump({"source": source, "unit": "USD per million tokens", "digest": digest(models)})
    return f"{head[:-1]},\n".encode() + models


def main(argv: Sequence[str]) -> int:
    """`refresh [--from FILE] [--to FILE]`: writes the book and prints what was dropped and why."""
    parser = argparse.ArgumentParser(prog="python -m budgets.pricing", description="The price book.")
    refresh = parser.add_subparsers(required=True).add_parser("refresh", help="make the price book anew")
    refresh.add_argument("--from", dest="source", type=Path, default=None, help=f"litellm's {TABLE}")
    refresh.add_argument("--to", dest="target", type=Path, default=BOOK)
    options = parser.parse_args(argv)
    source = options.source or installed_table()
    if source is None or not source.is_file():
        parser.error(f"no table {source or 'of litellm, which is not installed'}; name one with --from")
    records, report = convert(read_table(source.read_bytes()))
    options.target.write_bytes(render(records, {"package": _package(source), "table": TABLE, "licence": "MIT"}))
    sys.stdout.write("\n".join([*report, f"{len(records)} models priced, {len(report)} left out", ""]))
    return 0


def installed_table() -> Path | None:
    """The table of the installed litellm, which is not imported; None where it is not installed."""
    spec = find_spec("litellm")
    return Path(spec.origin).with_name(TABLE) if spec and spec.origin else None


def read_table(text: bytes) -> dict[str, dict[str, Any]]:
    """The table with its numbers as written. Raises ValueError for NaN, infinity and anything but entries by name."""
    table = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError("the price table must be an object of objects")
    return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the price table holds {name}, which is no price")


def _package(source: Path) -> str:
    """Which release the table comes from: the folder beside its package tells (`litellm-1.2.3.dist-info`)."""
    infos = sorted(source.parent.parent.glob("litellm-*.dist-info"))
    return infos[-1].name.removesuffix(".dist-info") if infos else source.name


def _key(name: str, api: str) -> str:
    """`provider/model`: the table writes some providers before the model and leaves others out."""
    provider = "vertex_ai" if api.startswith("vertex_ai") else PROVIDERS.get(api, api)
    for prefix in (provider, api):
        if name.startswith(f"{prefix}/"):
            return f"{provider}/{name.removeprefix(f'{prefix}/')}"
    return f"{provider}/{name}"


def _add(records: dict[str, Record], key: str, record: Record) -> None:
    """Adds a record. Of two for one model the fuller counts where they agree, and none where they do not."""
    known = records.setdefault(key, record)
    if any(known.get(name) != record.get(name) for name in ("input", "output")):
        del records[key]
        raise Unpriced("the table has two prices for it")
    records[key] = max(known, record, key=lambda each: len(_dump(each)))


def _record(name: str, entry: Mapping[str, Any]) -> Record:
    """One model as the book has it. Raises Unpriced, and ValueError for an impossible price."""
    record: Record = {}
    for field, value in sorted(entry.items()):
        match = FIELD.fullmatch(field)
        if match and value is not None:
            _state(record, match, _usd_per_million(name, field, value), entry["litellm_provider"])
    _tiered(record, name, entry)
    _believe(record, name, entry)
    _prune(record)
    Price.from_usd_per_million(record)
    return record | _limits(entry) | _encoding(name, entry)


def _state(record: Record, match: re.Match[str], amount: str, provider: str) -> None:
    """Puts one price where it belongs: its tier, its step, its class. A zero class is left out, as not said."""
    field, threshold, kilo, tier = match.groups()
    place = record.setdefault("tiers", {}).setdefault(TIERS[tier], {}) if tier else record
    if threshold:
        above = int(threshold) * (1000 if kilo else 1) - (provider in INCLUSIVE_PROVIDERS)
        place = place.setdefault("above", {}).setdefault(str(above), {})
    if amount != "0" or place is record:  # a zero for the whole model is for `_believe` to judge
        place[CLASSES[field]] = amount


def _tiered(record: Record, name: str, entry: Mapping[str, Any]) -> None:
    """Steps given as a list of ranges of input tokens, first to last (`above < tokens <= range end`)."""
    for tier in sorted(entry.get("tiered_pricing") or (), key=lambda tier: tier["range"][0]):
        start = int(tier["range"][0])
        place = record.setdefault("above", {}).setdefault(str(start), {}) if start else record
        for field in CLASSES.keys() & tier.keys():
            amount = _usd_per_million(name, field, tier[field])
            if amount != "0" or place is record:
                place[CLASSES[field]] = amount


def _believe(record: Record, name: str, entry: Mapping[str, Any]) -> None:
    """Raises Unpriced unless what is stated is the whole of what the model costs."""
    if entry["mode"] == "embedding":
        record.setdefault("output", "0")
    if "input" not in record or "output" not in record:
        raise Unpriced("no price for its tokens")
    apart = [field for field, kind in BILLED_APART.items() if entry.get(field) and entry[field] != entry.get(str(kind))]
    if apart:
        raise Unpriced(f"bills {apart[0]} apart")
    if ALWAYS_SEARCHES.search(name) or (name.startswith("perplexity/") and "search_context_cost_per_query" in entry):
        raise Unpriced("searches, and bills it, without being asked")
    _believe_zero(record, entry)


def _believe_zero(record: Record, entry: Mapping[str, Any]) -> None:
    zeros = [record["input"], record["output"]].count("0")
    if zeros == 2 and entry["litellm_provider"] in LOCAL_PROVIDERS:
        record.clear()
        record["free"] = True
    elif record["input"] == "0" or (record["output"] == "0" and entry["mode"] != "embedding"):
        raise Unpriced("a price of zero, which may mean free, billed otherwise or not known")


def _prune(record: Record) -> None:
    """Leaves out the zeros that are not said, and of the first step what costs what its kind does."""
    tiers = list(record.get("tiers", {}).values())
    steps = [step for tier in (record, *tiers) for step in tier.get("above", {}).values()]
    for rates in (record, *tiers, *steps):
        for name, kind in reversed(KINDS.items()):
            as_its_kind = rates is record and rates.get(name) == rates.get(kind, rates.get("input"))
            if rates.get(name) == "0" or as_its_kind:
                rates.pop(name, None)


def _limits(entry: Mapping[str, Any]) -> Record:
    fields = {"max_input": "max_input_tokens", "max_output": "max_output_tokens"}
    limits = {name: entry.get(field) for name, field in fields.items()}
    return {name: limit for name, limit in limits.items() if type(limit) is int and limit > 0}


def _encoding(name: str, entry: Mapping[str, Any]) -> Record:
    """The vocabulary, where tiktoken's own list of OpenAI's models names one that is to be had offline."""
    key = _key(name, entry["litellm_provider"])
    provider, _, model = key.partition("/")
    if provider not in TIKTOKEN_PROVIDERS:
        return {}
    try:
        encoding = encoding_name_for_model(model)
    except KeyError:
        return {}
    return {"encoding": encoding} if encoding in ENCODINGS else {}


def _usd_per_million(name: str, field: str, value: object) -> str:
    """A price as the book writes it. Raises ValueError for a number that is no price.

    The table was written with binary floats, so 1e-7 may stand there as 1.0000000000000001e-07: the whole number of
    pico-dollars is meant that reads back as the same 15 digits. What is finer than that is no slip: Unpriced.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        raise ValueError(f"{name}: {field} is {value!r}, which is no price")
    pico = Decimal(value) * PICO_PER_USD
    whole = pico.to_integral_value()
    if abs(pico - whole) > pico * Decimal("1e-15"):
        raise Unpriced(f"{field} is finer than a pico-dollar")
    return f"{(whole / (PICO_PER_USD // TOKENS_PER_UNIT)).normalize():f}"


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
