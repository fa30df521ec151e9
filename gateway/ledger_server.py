"""The Redis server that the ledger is kept in: somebody's own, or the embedded one, which is brought back if it dies.

What is here blocks, except `keep()`: the supervisor calls it in threads.
"""

import asyncio
import logging
import threading
import time
from pathlib import Path

from redis import AuthenticationError, Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from budgets.embedded import EmbeddedRedis, check_server
from budgets.errors import NoRedisServer, RedisServerFailed
from gateway.errors import CannotStart
from gateway.secrets import check_pepper

ANSWER_TIMEOUT = 10.0
"""Seconds for which a Redis server may be away at the start, since both may have been started together."""
CALL_TIMEOUT = 2.0
_PAUSE = 0.2
_LOOK_EVERY = 1.0
_logger = logging.getLogger(__name__)


class LedgerServer:
    """Found or launched by `start()`, tended by `keep()`, let go by `stop()`."""

    def __init__(self, url: str | None, data_dir: Path, run_dir: Path) -> None:
        """`url` is somebody's own server; without one it is embedded, with its data in `data_dir`."""
        self._url = url
        self._embedded = None if url else EmbeddedRedis(data_dir, run_dir)
        self._turn = threading.Lock()
        self._stopped = False

    def start(self, pepper: str) -> str:
        """The server's URL, once it answers and is fit for money. Raises CannotStart."""
        try:
            url = self._url or self._launched()
            self._check(url, pepper)
        except (NoRedisServer, RedisServerFailed) as exc:
            raise CannotStart(str(exc)) from exc
        except RedisError as exc:
            raise CannotStart(f"the Redis server cannot be used: {exc}") from exc
        return url

    async def keep(self) -> None:
        """Bring the embedded server back whenever it is gone. Runs until cancelled."""
        while self._embedded is not None:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await asyncio.to_thread(self._launched)
            except (NoRedisServer, RedisServerFailed) as exc:
                _logger.error("the embedded Redis cannot be brought back: %s", exc)

    def stop(self) -> None:
        """Stop the embedded server, unless others use it. When this returns its data are on the disk."""
        with self._turn:
            self._stopped = True
            if self._embedded is not None:
                try:
                    self._embedded.stop()
                except RedisServerFailed as exc:
                    _logger.error("%s", exc)

    def _launched(self) -> str:
        with self._turn:
            if self._stopped or self._embedded is None:
                raise RedisServerFailed("the gateway is stopping")
            return self._embedded.start()

    def _check(self, url: str, pepper: str) -> None:
        """Raises CannotStart or redis.RedisError."""
        calm = {"retry": Retry(NoBackoff(), 0), "socket_timeout": CALL_TIMEOUT, "socket_connect_timeout": CALL_TIMEOUT}
        with Redis.from_url(url, **calm) as redis:
            self._await_answer(redis)
            for problem in check_server(redis):
                if problem.fatal:
                    raise CannotStart(problem.message)
                _logger.warning("%s", problem.message)
            check_pepper(redis, pepper)

    def _await_answer(self, redis: Redis) -> None:
        """Raises redis.RedisError where nothing answers in time, or where the password is wrong."""
        give_up_at = time.monotonic() + ANSWER_TIMEOUT
        while not self._stopped:
            try:
                redis.ping()
                return
            except AuthenticationError:
                raise
            except RedisError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(_PAUSE)
