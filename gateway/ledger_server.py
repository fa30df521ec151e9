"""The Redis server that the ledger is kept in: somebody's own, or the embedded one, which is brought back if it dies.

What is here blocks, except `keep()`: the supervisor calls it in threads.
"""

import asyncio
import logging
import threading
import time
from pathlib import Path

from redis import AuthenticationError, BusyLoadingError, Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from budgets.embedded import EmbeddedRedis
from budgets.errors import NoRedisServer, RedisServerFailed
from budgets.redis_connection import Address
from budgets.server_check import PERMISSIONS, check_server
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
            raise CannotStart(f"the Redis server at {Address.parse(url)} cannot be used: {_why(exc)}") from exc
        return url

    async def keep(self) -> None:
        """Bring the embedded server back whenever it is gone. Runs until cancelled."""
        told = ""
        while self._embedded is not None:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await asyncio.to_thread(self._launched)
                told = ""
            except (NoRedisServer, RedisServerFailed) as exc:
                if told != str(exc):  # once, and not at every look
                    _logger.error("the embedded Redis cannot be brought back: %s", exc)
                told = str(exc)

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
        with _client(url) as redis:
            self._await_answer(redis)
            problems = check_server(redis)
            for problem in problems:
                if not problem.fatal:
                    _logger.warning("%s", problem.message)
            if fatal := [problem.message for problem in problems if problem.fatal]:
                raise CannotStart(
                    "\n".join((f"the Redis server at {Address.parse(url)} is not fit for money:", *fatal))
                )
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
            except BusyLoadingError:  # much data takes long to read, and is being read
                give_up_at = time.monotonic() + ANSWER_TIMEOUT
            except RedisError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(_PAUSE)


def _client(url: str) -> Redis:
    """A client without retries. Raises CannotStart for what is no URL, and does not repeat it: it may hold a secret."""
    calm = {"retry": Retry(NoBackoff(), 0), "socket_timeout": CALL_TIMEOUT, "socket_connect_timeout": CALL_TIMEOUT}
    try:
        redis = Redis.from_url(url, **calm)
        redis.connection_pool.make_connection()  # it knows which options there are
    except (ValueError, TypeError) as exc:
        forms = "redis://user:password@host:6379/0, rediss://… for TLS, or unix:///path/to/socket"
        escaped = "characters such as / ? # @ in a password are written as %2F %3F %23 %40"
        raise CannotStart(
            f"REDIS_URL, or redis.url, is no address of a Redis server; write {forms}; {escaped}"
        ) from exc
    return redis


def _why(error: RedisError) -> str:
    """What is wrong, in our words where those of Redis speak to programmers."""
    if isinstance(error, AuthenticationError):
        return "it asks for a password, and REDIS_URL has none or a wrong one"
    if isinstance(error, NoPermissionError):
        return f"{error}; the user in REDIS_URL needs {PERMISSIONS}"
    return str(error)
