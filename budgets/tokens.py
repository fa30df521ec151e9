"""Exact token counts, for the rare request that the cheap bound (budgets/estimate.py) would refuse.

Neither tiktoken nor its tables are loaded before the first count, then once and in a thread. The vocabularies come
from files that are already here; nothing is ever fetched, which is why tiktoken's own loader is not used.
"""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding

log = logging.getLogger(__name__)

MOST_CHARACTERS = 1_000_000
"""Longer texts are not counted: a request must not keep a core busy."""
CHUNK = 50_000
"""Characters encoded at a time: bounds memory and what an adversarial text can cost. A cut adds a token or two."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Where an encoding's table is found, and how text is cut before it is looked up there."""

    file: str
    """tiktoken's name for it in its cache: the SHA-1 of the address it is published at."""
    sha256: str
    pattern: str


VOCABULARIES: Mapping[str, Vocabulary] = MappingProxyType(
    {
        "o200k_base": Vocabulary(
            file="fb374d419588a4632f3f557e76b4b70aebbca790",
            sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            pattern="|".join(
                (
                    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                    r"\p{N}{1,3}",
                    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    r"\s*[\r\n]+",
                    r"\s+(?!\S)",
                    r"\s+",
                )
            ),
        ),
        "cl100k_base": Vocabulary(
            file="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            pattern=r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
            r"|\s*[\r\n]|\s+(?!\S)|\s",
        ),
    }
)


def vocabulary_folder(environ: Mapping[str, str]) -> Path | None:
    """Where the vocabularies are: `TIKTOKEN_CACHE_DIR`, else inside the litellm package, which is not imported."""
    if environ.get("TIKTOKEN_CACHE_DIR"):
        return Path(environ["TIKTOKEN_CACHE_DIR"])
    litellm = find_spec("litellm")
    return Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers" if litellm and litellm.origin else None


class TokenCounter:
    """Counts tokens as OpenAI's models do. One text at a time: a worker has one core for everything."""

    def __init__(self, folder: Path | None, vocabularies: Mapping[str, Vocabulary] = VOCABULARIES) -> None:
        self._folder = folder
        self._vocabularies = vocabularies
        self._encodings: dict[str, Encoding | None] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokens")

    async def count(self, texts: Sequence[str], encoding: str | None) -> int | None:
        """The tokens of all texts together; None where they are too long or the vocabulary is not to be had.

        Text that spells a special token counts as text, which is what a provider makes of it.
        """
        if encoding is None or encoding not in self._vocabularies or sum(map(len, texts)) > MOST_CHARACTERS:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._count, texts, encoding)

    def close(self) -> None:
        """Ends the thread; what still waits for it is cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _count(self, texts: Sequence[str], name: str) -> int | None:
        if name not in self._encodings:
            self._encodings[name] = self._load(name)
        encoding = self._encodings[name]
        if encoding is None:
            return None
        pieces = (text[start : start + CHUNK] for text in texts for start in range(0, len(text), CHUNK))
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces)

    def _load(self, name: str) -> "Encoding | None":
        """The encoding, or None with one line in the log; it is not tried again."""
        vocabulary = self._vocabularies[name]
        try:
            if self._folder is None:
                raise FileNotFoundError("set TIKTOKEN_CACHE_DIR or install litellm")
            table = (self._folder / vocabulary.file).read_bytes()
        except OSError as exc:
            log.warning("tokens are bounded, not counted: no vocabulary %s (%s)", name, exc)
            return None
        if hashlib.sha256(table).hexdigest() != vocabulary.sha256:
            log.warning("tokens are bounded, not counted: the file of vocabulary %s is not the published one", name)
            return None
        return _encoding(name, vocabulary.pattern, table)


def _encoding(name: str, pattern: str, table: bytes) -> "Encoding":
    """An encoding from its table: a line for each token, base64 and rank."""
    from tiktoken import Encoding  # noqa: PLC0415 - not before the first count: 85 MB with its tables

    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, table.splitlines())}
    return Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
