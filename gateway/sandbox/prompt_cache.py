"""The prompt cache: which beginnings of a conversation a model has read before.

As OpenAI's it counts from 1,024 tokens on, in steps of 128, and forgets what was not read for long. A restart of the
sandbox empties it.
"""

from collections import OrderedDict
from hashlib import blake2b

import orjson

from gateway.sandbox.chat_request import ChatRequest

_LEAST = 1_024
_STEP = 128
_MOST_PREFIXES = 10_000


class PromptCache:
    """Remembers prompts by the hashes of their beginnings, cut between messages."""

    def __init__(self) -> None:
        self._read: OrderedDict[bytes, None] = OrderedDict()

    def read(self, request: ChatRequest) -> int:
        """How many of the prompt's tokens were read before; all of it counts as read from now on."""
        if request.model.cached_input_price is None or request.input_tokens < _LEAST:
            return 0
        cached = 0
        running = blake2b(orjson.dumps([request.model.name, [tool.parameters for tool in request.tools]]))
        for message, tokens in zip(request.messages, request.prompt_tokens[1:], strict=True):
            running.update(orjson.dumps(message))
            if tokens >= _LEAST and self._remember(running.digest()):
                cached = tokens
        return cached // _STEP * _STEP

    def _remember(self, prefix: bytes) -> bool:
        """Whether `prefix` was known; it is from now on."""
        known = prefix in self._read
        self._read[prefix] = None
        self._read.move_to_end(prefix)
        if len(self._read) > _MOST_PREFIXES:
            self._read.popitem(last=False)
        return known
