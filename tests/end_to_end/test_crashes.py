"""`kill -9` under load: whatever dies, the books stay between what was billed and what may have been billed."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from chaos_callers import crowd
from gateway_process import GatewayProcess, Key, until

from gateway.chaos.load import Caller, chat

log = logging.getLogger(__name__)

CALLERS = 24
BUSY = 100
"""Answers after which the load counts as under way."""
MODELS = ("sandbox-small", "sandbox-large", "exact", "auto")
WORKER, REDIS, SANDBOX = "gateway.worker", "valkey-server", "gateway.sandbox"


@dataclass
class Load:
    """Callers who ask and listen without pause, until they are told to stop or nobody listens to them any more."""

    gateway: GatewayProcess
    key: Key
    answered: int = 0
    broken: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_busy(self) -> None:
        """Wait until many more answers have come, with the books looked at all the while."""
        enough = self.answered + BUSY
        async with asyncio.timeout(30):
            while self.answered < enough:
                await asyncio.to_thread(look, self.gateway, self.key)

    async def act(self, caller: Caller) -> None:
        for turn in itertools.count():
            if self.stop.is_set():
                return
            request = chat(MODELS[turn % len(MODELS)], f"Tell me about {turn}. [[long 20]]", stream=turn % 3 == 0)
            try:
                answer = await caller.ask(**request)
            except ConnectionRefusedError:
                return
            except (OSError, EOFError):
                self.broken += 1
            else:
                assert answer.status == 200
                self.answered += 1


@asynccontextmanager
async def load(gateway: GatewayProcess, key: Key) -> AsyncIterator[Load]:
    """A load that is under way, and over afterwards."""
    load = Load(gateway, key)
    callers = asyncio.create_task(crowd(gateway.port, key.text, CALLERS, load.act))
    try:
        await load.until_busy()
        yield load
    finally:
        load.stop.set()
        await callers


def look(gateway: GatewayProcess, key: Key) -> None:
    """Check the books against the bill, while both may grow: the bill is read before and after."""
    before = gateway.billed(key)
    money = gateway.money(key)
    assert before <= money.counted
    assert money.spent <= gateway.billed(key)


def look_until_nothing_is_held(gateway: GatewayProcess, key: Key) -> None:
    """Check the books until every hold is settled or, a lease later, in suspense."""

    def nothing_held() -> bool:
        look(gateway, key)
        return gateway.money(key).held == 0

    until(nothing_held, lambda: f"leaked: {gateway.money(key)}")
    money = gateway.money(key)
    assert money.spent <= gateway.billed(key) <= money.spent + money.suspense


async def test_a_worker_that_is_killed_is_replaced_and_what_it_held_stays_counted(
    fresh_gateway: GatewayProcess,
) -> None:
    gateway = fresh_gateway
    key = gateway.create_key("1000/day")
    async with load(gateway, key) as crowd:
        victim, survivor = gateway.children(WORKER)
        gateway.kill_child(victim)
        await crowd.until_busy()
        await asyncio.to_thread(until, lambda: len(gateway.children(WORKER)) == 2, lambda: "not replaced")
        await crowd.until_busy()

    assert crowd.broken
    assert survivor in gateway.children(WORKER)
    look_until_nothing_is_held(gateway, key)


@pytest.mark.parametrize("victims", [(), (WORKER, SANDBOX, REDIS)], ids=["alone", "with all it runs"])
async def test_a_gateway_that_is_killed_starts_again_on_its_data(
    fresh_gateway: GatewayProcess, victims: tuple[str, ...]
) -> None:
    gateway = fresh_gateway
    key = gateway.create_key("1000/day")
    async with load(gateway, key):
        before = gateway.money(key)
        gateway.kill(*victims)
    gateway.start()

    look(gateway, key)
    assert gateway.money(key).spent >= before.spent
    async with load(gateway, key):
        pass
    look_until_nothing_is_held(gateway, key)
    assert gateway.money(key).spent > before.spent > Decimal(0)


async def test_a_gateway_that_is_killed_in_mid_answer_counts_what_it_cannot_know(
    fresh_gateway: GatewayProcess,
) -> None:
    gateway = fresh_gateway
    key = gateway.create_key("1/day")
    caller = Caller(gateway.port, key.text)
    answer = asyncio.create_task(caller.ask(**chat("exact", "Think. [[stall]] [[bill all]]")))
    await asyncio.to_thread(until, lambda: gateway.billed(key) > 0, lambda: "never billed")
    gateway.kill(WORKER)
    killed_at = time.monotonic()
    with suppress(OSError, EOFError):
        await answer
    gateway.start()

    look_until_nothing_is_held(gateway, key)
    log.info("the hold was gone %.2f s after the kill, with a lease of 2 s", time.monotonic() - killed_at)
    money = gateway.money(key)
    assert (money.spent, money.suspense) == (0, Decimal("0.001"))
    assert gateway.admin("GET", f"/keys/{key.id}")["limits"][0]["remaining_usd"] == "0.999"
