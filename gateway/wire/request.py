"""ModelRequest: what a caller asks of a model, in whichever dialect it came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class ModelRequest:
    """A parsed request. `body` is the caller's JSON with every field it had, known to us or not."""

    operation_name: str
    """OTel GenAI: `chat`, `embeddings`, …"""
    model: str
    body: Mapping[str, Any]
    stream: bool = False
    wants_usage: bool = False
    """Whether the caller asked for the usage event of a stream."""
    output_cap: int | None = None
    """The caller's own limit of output tokens, for each of the `n` answers."""
    n: int = 1
    size_bytes: int = 0
    """Of the body as it came."""
