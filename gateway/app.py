"""The composition root: the only place where objects are made and joined."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from budgets.errors import LedgerUnavailable
from budgets.journal import Journal
from budgets.keys import DEFAULT_ACCOUNT, KeyStore
from budgets.marks import Marks
from budgets.price_book import PriceBook
from budgets.redis_connection import RedisConnection
from budgets.redis_ledger import LedgerPolicy, RedisLedger
from budgets.tokens import TokenCounter, vocabulary_folder
from gateway.api.admin import Admin
from gateway.api.edge import Edge
from gateway.api.exchange import Receive, Scope, Send
from gateway.api.models import models_router
from gateway.api.operations import operations_router
from gateway.api.reconcile import ReconcileApi
from gateway.api.service import create_service
from gateway.auth import Callers
from gateway.catalog import Catalog
from gateway.configuration import ConfigurationError, Problem
from gateway.pipeline import Pipeline
from gateway.planner import Planner
from gateway.quotes import Quotes
from gateway.reconciliation import Reconciliation
from gateway.settings import Runtime, Settings
from gateway.telemetry.budget_rows import BudgetRows
from gateway.telemetry.exposition import exposition
from gateway.telemetry.logs import LineWriter
from gateway.telemetry.metrics import Known, Metrics
from gateway.telemetry.record import Telemetry
from gateway.telemetry.timed_ledger import TimedLedger
from gateway.upstream.failover import Failover
from gateway.upstream.http import Upstream
from gateway.upstream.sandbox import SandboxBill
from routing.health import Health
from routing.retry import RetryBudget

_logger = logging.getLogger(__name__)

CHAT_PATHS = ("/v1/chat/completions", "/chat/completions")
ADMIN_PATIENCE = 1.0
"""Seconds the admin API waits for Redis."""
RELOADED = {"providers", "models", "routes"}
"""The sections of the configuration that are taken without a restart."""
LAST_SETTLES = 5.0
"""Seconds a stopping worker waits for Redis to take what was spent last."""
SAMPLE_EVERY = 1.0
"""Seconds between two looks at what other parts count as plain numbers."""


def create_app(
    settings: Settings,
    runtime: Runtime,
    writer: LineWriter,
    *,
    reread: Callable[[], Settings],
    reload_all: Callable[[], None] | None = None,
) -> "Gateway":
    """One worker's application.

    `reread` reads the configuration anew and raises ConfigurationError where it is wrong. `reload_all` has all workers
    reload; without it this one reloads itself.
    """
    return Gateway(settings, runtime, writer, reread, reload_all)


class Gateway:
    """One worker: serves ASGI, starts and stops what it is made of, and takes a changed configuration."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        writer: LineWriter,
        reread: Callable[[], Settings],
        reload_all: Callable[[], None] | None,
    ) -> None:
        self._settings = settings
        self._reread = reread
        self._reload_all = reload_all or self.reload
        self._writer = writer
        self._prices = PriceBook.load()
        catalog = Catalog(settings, self._prices)
        self._metrics = _metrics(catalog, settings, runtime)

        # money
        self._redis = _redis(runtime.redis_url)
        self._connection = RedisConnection(runtime.redis_url, deadline=settings.redis.deadline)
        policy = settings.ledger
        name = f"worker-{runtime.worker}"
        self._journal = Journal(settings.data_dir / "journal", name, keep=policy.failover_window)
        marks = Marks(settings.data_dir / "ledger-marks.json", time.time)
        self._ledger = RedisLedger(self._connection, self._journal, marks, _ledger_policy(settings), time.time)
        keys = KeyStore(self._redis, runtime.pepper.encode())
        self._budget_rows = BudgetRows(keys, self._ledger, settings.metrics.max_keys)

        # models
        self._health = Health()
        self._counter = TokenCounter(vocabulary_folder(os.environ))
        quotes = Quotes(policy, self._counter)
        self._planner = Planner(catalog, self._health, quotes, time.monotonic)
        self._upstream = Upstream(settings.upstream)
        self._bill = SandboxBill(runtime.sandbox_url, runtime.sandbox_token)
        max_attempts = settings.upstream.max_attempts
        failover = Failover(self._health, RetryBudget(), max_attempts, time.monotonic, random.random)

        # requests
        callers = Callers(keys, self._connection, self._ledger, policy.key_cache, time.time)
        ledger = TimedLedger(self._ledger, self._metrics)
        pipeline = Pipeline(callers, self._planner, quotes, ledger, failover, self._upstream)
        reconciliation = Reconciliation(self._ledger, self._planner, time.time)
        routers = (
            models_router(callers, self._planner, self._ledger),
            Admin(keys, self._ledger, self._planner, self._changed).router(runtime.admin_key),
            ReconcileApi(reconciliation, self._ledger).router(runtime.admin_key),
            operations_router(self._probe, self._scrape, self._bill, self._ledger),
        )
        self._edge = Edge(
            dict.fromkeys(CHAT_PATHS, ("chat", pipeline.chat)),
            create_service(routers, self._lifespan, settings.server.max_body_bytes),
            Telemetry(self._metrics, writer.write),
            settings,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge(scope, receive, send)

    def reload(self) -> None:
        """Serve what the configuration says now; the old one stays where the new one is wrong.

        Raises ConfigurationError. Only the sections of `RELOADED` are taken; the others need a restart.
        """
        catalog = Catalog(self._fresh(), self._prices)
        self._planner.catalog = catalog
        self._metrics.configure(_known(catalog))

    def _changed(self) -> list[str]:
        """Check the changed configuration here, so that whoever asked hears what is wrong; then have all take it.

        Returns the sections that have changed and need a restart.
        """
        fresh = self._fresh()
        self._reload_all()
        others = Settings.model_fields.keys() - RELOADED
        return sorted(name for name in others if getattr(fresh, name) != getattr(self._settings, name))

    def _fresh(self) -> Settings:
        """The configuration as it is now. Raises ConfigurationError."""
        fresh = self._reread()
        if fresh.uses_sandbox and not self._settings.uses_sandbox:
            raise ConfigurationError(Problem("providers", None, "a sandbox starts with the gateway only; restart it"))
        return fresh

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the ledger's background work while serving; at the end, give what was spent a chance to be booked."""
        async with AsyncExitStack() as stack:
            stack.callback(self._journal.close)
            stack.callback(self._counter.close)
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(self._bill.close)
            stack.push_async_callback(self._upstream.close)
            stack.push_async_callback(self._connection.close)
            await self._connect()
            background = [asyncio.create_task(self._ledger.run()), asyncio.create_task(self._sample())]
            for task in background:
                task.add_done_callback(_stop_without)
            stack.push_async_callback(_cancelled, background)
            yield
            await self._drained()

    async def _connect(self) -> None:
        try:
            await self._connection.connect()
        except LedgerUnavailable as exc:  # it goes on trying; until then callers with a limit are refused
            _logger.warning("the ledger is away: %s", exc.reason)

    async def _drained(self) -> None:
        """What Redis does not take now stays in the journal, for the next worker."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SETTLES):
                await self._ledger.drained()

    async def _sample(self) -> None:
        while True:
            self._take_sample()
            await asyncio.sleep(SAMPLE_EVERY)

    def _take_sample(self) -> None:
        now = time.monotonic()
        for deployment in self._planner.catalog.targets:
            self._metrics.breaker(deployment, self._health.state(deployment, now))
        counters = self._ledger.counters
        events = {name: getattr(counters, name) for name in counters.__slots__}
        behind, damaged = len(self._ledger.behind), len(self._ledger.damaged)
        self._metrics.sample(events, self._journal.depth, self._writer.dropped, behind, damaged)

    async def _probe(self) -> None:
        """Have the ledger run a script: full, read-only or with a wrong clock, Redis still answers a PING."""
        await self._ledger.status(DEFAULT_ACCOUNT, "account")

    async def _scrape(self) -> bytes:
        self._take_sample()
        return await exposition(self._metrics, self._budget_rows.read)


def _stop_without(task: "asyncio.Task[None]") -> None:
    """Background work never ends by itself: where it does, have this worker stop, so that another takes its place."""
    if not task.cancelled():
        _logger.critical("this worker stops, for its background work has failed", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)


async def _cancelled(tasks: "Sequence[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _ledger_policy(settings: Settings) -> LedgerPolicy:
    accept_after = settings.suspense.accept_after
    return LedgerPolicy(
        lease=settings.ledger.lease,
        tombstone=settings.ledger.tombstone,
        accept_after=None if accept_after == "never" else accept_after,
    )


def _redis(url: str) -> Redis:
    """For what is off the requests' path; redis-py's own retries and time-outs would keep people waiting."""
    return Redis.from_url(url, socket_timeout=ADMIN_PATIENCE, retry=Retry(NoBackoff(), 0))


def _metrics(catalog: Catalog, settings: Settings, runtime: Runtime) -> Metrics:
    folder = Path(runtime.metrics_dir) if runtime.metrics_dir else None
    return Metrics(_known(catalog), max_keys=settings.metrics.max_keys, folder=folder, index=runtime.worker)


def _known(catalog: Catalog) -> Known:
    targets = catalog.targets
    providers = frozenset(target.deployment.provider_name for target in targets.values())
    return Known(models=frozenset(catalog.names), providers=providers, deployments=frozenset(targets))
