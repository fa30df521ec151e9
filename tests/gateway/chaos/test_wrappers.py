"""The chaos worker's wrappers: every point is come to, and what happens there is what was ordered."""

import asyncio
from pathlib import Path

import pytest

from gateway.chaos import points
from gateway.chaos.load import Ending, chat
from gateway.chaos.points import POINTS, Fault, Kind, Point
from gateway.chaos.world import World, until
from gateway.chaos.wrappers import Breaker, Injected


@pytest.fixture
def breaker(tmp_path: Path) -> Breaker:
    return Breaker(tmp_path)


def test_nothing_happens_where_nothing_is_ordered(breaker: Breaker) -> None:
    breaker.now("after journal", Injected())

    assert breaker.due("after journal") is None


async def test_an_error_is_raised_once(breaker: Breaker, tmp_path: Path) -> None:
    points.arm(tmp_path, Fault(1, "before reserve", "exception"))

    with pytest.raises(Injected):
        await breaker.here("before reserve")
    await breaker.here("before reserve")


async def test_a_task_is_cancelled_where_it_stands(breaker: Breaker, tmp_path: Path) -> None:
    points.arm(tmp_path, Fault(1, "before dispatch", "cancel"))
    task = asyncio.ensure_future(breaker.here("before dispatch"))
    await asyncio.wait([task])

    assert task.cancelled()


async def test_the_ledgers_own_tasks_are_not_cancelled_for_nobody_does(breaker: Breaker, tmp_path: Path) -> None:
    points.arm(tmp_path, Fault(1, "settle sent", "cancel"))
    task = asyncio.create_task(breaker.here("settle sent"), name="ledger: send again")
    await asyncio.wait([task])

    assert not task.cancelled()
    assert breaker.due("settle sent") is None


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("point", POINTS)
async def test_every_point_is_come_to(world: World, point: Point) -> None:
    caller = world.caller(await world.create_key())
    fault = world.arm(point, "slow")
    ending = await caller.ending(**chat("sandbox-small", f"Say something. {point} [[long 9]]", stream=True))

    assert ending is Ending.ANSWERED
    assert await world.strikes(fault) in world.workers().values()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("point", "kind", "ending"),
    [
        ("before reserve", "exception", Ending.FAILED),
        ("reserve sent", "exception", Ending.UNAVAILABLE),
        ("before dispatch", "exception", Ending.FAILED),
        ("mid-stream", "exception", Ending.BROKEN),
        ("before journal", "exception", Ending.ANSWERED),
        ("settle sent", "exception", Ending.ANSWERED),
        ("after first byte", "stop", Ending.ANSWERED),
        ("settle acked", "stop", Ending.ANSWERED),
        ("usage seen", "kill", Ending.BROKEN),
    ],
)
async def test_the_caller_gets_what_a_fault_leaves_of_the_answer(
    world: World, point: Point, kind: Kind, ending: Ending
) -> None:
    key = await world.create_key()
    caller = world.caller(key)
    fault = world.arm(point, kind, 0.05)
    asking = asyncio.create_task(caller.ending(**chat("sandbox-small", f"{point} [[long 9]]", stream=True)))

    await world.strikes(fault)
    assert await asking is ending
    money = await world.quiet(key)
    assert money.spent <= world.billed(key.account) <= money.spent + money.suspense


@pytest.mark.asyncio(loop_scope="session")
async def test_a_killed_worker_has_a_successor(world: World) -> None:
    key = await world.create_key()
    fault = world.arm("reserve acked", "kill")
    ending = await world.caller(key).ending(**chat("exact", "Hello."))
    victim = await world.strikes(fault)

    async def is_replaced() -> bool:
        return victim not in world.workers().values()

    await until(is_replaced, "a successor")
    assert ending is Ending.BROKEN
    assert await world.caller(key).ending(**chat("exact", "Hello again.")) is Ending.ANSWERED


@pytest.mark.asyncio(loop_scope="session")
async def test_a_fault_that_nobody_comes_to_is_taken_back(world: World) -> None:
    assert await world.strikes(world.arm("usage seen", "kill"), patience=0.01) is None
    assert await world.caller(await world.create_key()).ending(**chat("exact", "Hello.")) is Ending.ANSWERED
