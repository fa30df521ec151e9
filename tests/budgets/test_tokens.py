"""Counting happens with real encodings from files on disk: a small one made here, the published ones where present."""

import base64
import hashlib
import importlib
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken_ext.openai_public

from budgets.estimate import counted_bound, input_bound, texts
from budgets.tokens import CHUNK, MOST_CHARACTERS, VOCABULARIES, TokenCounter, Vocabulary, vocabulary_folder

TABLE = b"\n".join(
    base64.b64encode(token) + b" " + str(rank).encode()
    for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), b"he", b"ll", b"hell", b"hello", b" hello"])
)
SMALL = Vocabulary(file="small", sha256=hashlib.sha256(TABLE).hexdigest(), pattern=r" ?\p{L}+|\s+|[^\s\p{L}]+")


@pytest.fixture
def counter(tmp_path: Path) -> TokenCounter:
    """A counter whose only vocabulary knows `hello` as one token and else single bytes."""
    (tmp_path / "small").write_bytes(TABLE)
    return TokenCounter(tmp_path, {"small": SMALL})


async def test_all_texts_are_counted_together(counter: TokenCounter) -> None:
    assert await counter.count(["hello hello", "hello", "", "xyz", "é"], "small") == 2 + 1 + 0 + 3 + 2


async def test_text_that_spells_a_special_token_counts_as_text(counter: TokenCounter) -> None:
    assert await counter.count(["<|endoftext|>"], "small") == len("<|endoftext|>")


async def test_a_long_text_is_counted_in_pieces_and_a_longer_one_not_at_all(counter: TokenCounter) -> None:
    assert await counter.count(["." * (3 * CHUNK + 1)], "small") == 3 * CHUNK + 1
    assert await counter.count(["." * MOST_CHARACTERS, "."], "small") is None


async def test_an_encoding_that_is_not_declared_is_not_guessed(counter: TokenCounter) -> None:
    assert await counter.count(["hello"], None) is None
    assert await counter.count(["hello"], "gpt2") is None


@pytest.mark.parametrize("content", [None, b"", TABLE[:-1], TABLE + b"\n"])
async def test_a_vocabulary_that_is_missing_or_damaged_is_named_once_in_the_log(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "small").write_bytes(content)
    counter = TokenCounter(tmp_path, {"small": SMALL})

    with caplog.at_level(logging.WARNING):
        assert [await counter.count(["hello"], "small") for _ in range(3)] == [None, None, None]

    assert len(caplog.records) == 1
    assert "small" in caplog.text


async def test_without_a_folder_nothing_is_counted() -> None:
    assert await TokenCounter(None).count(["hello"], "o200k_base") is None


async def test_nothing_is_ever_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    assert await TokenCounter(tmp_path).count(["hello"], "o200k_base") is None


async def test_a_closed_counter_has_no_thread_left(counter: TokenCounter) -> None:
    await counter.count(["hello"], "small")

    counter.close()

    with pytest.raises(RuntimeError):
        await counter.count(["hello"], "small")


def test_tiktoken_is_loaded_by_the_first_count_and_not_before(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from budgets.tokens import TokenCounter, Vocabulary\n"
        f"counter = TokenCounter(Path({str(tmp_path)!r}), {{'small': {SMALL!r}}})\n"
        "assert 'tiktoken' not in sys.modules; print(asyncio.run(counter.count(['hello'], 'small')))\n"
        "assert 'tiktoken' in sys.modules and 'litellm' not in sys.modules"
    )
    (tmp_path / "small").write_bytes(TABLE)

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"1\n"


def test_the_vocabularies_come_from_tiktokens_cache_or_from_litellm_unimported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('litellm was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    assert vocabulary_folder({}) == package / "litellm_core_utils" / "tokenizers"
    assert vocabulary_folder({"TIKTOKEN_CACHE_DIR": "/cache"}) == Path("/cache")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_encodings_are_tiktokens_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def record(url: str, expected_hash: str) -> dict[bytes, int]:
        asked.append((url, expected_hash))
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", record)
    published = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    ((url, sha256),) = asked

    assert published["pat_str"] == VOCABULARIES[name].pattern
    assert sha256 == VOCABULARIES[name].sha256
    assert hashlib.sha1(url.encode()).hexdigest() == VOCABULARIES[name].file


def published_counter() -> TokenCounter:
    folder = vocabulary_folder(os.environ)
    if folder is None or not all((folder / vocabulary.file).exists() for vocabulary in VOCABULARIES.values()):
        pytest.skip("no published vocabulary: pip install litellm, or set TIKTOKEN_CACHE_DIR")
    return TokenCounter(folder)


async def test_the_published_encodings_count_as_openai_does() -> None:
    counter = published_counter()

    assert await counter.count(["tiktoken is great!"], "o200k_base") == 6
    assert await counter.count(["tiktoken is great!"], "cl100k_base") == 6
    assert await counter.count(["お誕生日おめでとう"], "cl100k_base") == 9


async def test_a_count_lies_between_what_openai_bills_and_the_cheap_bound() -> None:
    counter = published_counter()
    body = {  # the cookbook's example, for which its API billed 129 tokens to gpt-4 and 124 to gpt-4o
        "messages": [
            {
                "role": "system",
                "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
                "plain English.",
            },
            {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
            {
                "role": "system",
                "name": "example_assistant",
                "content": "Things working well together will increase revenue.",
            },
            {
                "role": "system",
                "name": "example_user",
                "content": "Let's circle back when we have more bandwidth to touch base on opportunities for "
                "increased leverage.",
            },
            {
                "role": "system",
                "name": "example_assistant",
                "content": "Let's talk later when we're less busy about how to do better.",
            },
            {
                "role": "user",
                "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
            },
        ]
    }

    for encoding, billed in (("cl100k_base", 129), ("o200k_base", 124)):
        counted = await counter.count(texts(body), encoding)
        assert counted is not None
        bound = counted_bound(body, counted, "gpt-4o")
        assert bound is not None
        assert billed <= bound <= billed * 1.1
        assert bound < (input_bound(body, len(json.dumps(body)), "gpt-4o", None) or 0)
