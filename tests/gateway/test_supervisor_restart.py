"""Workers are replaced while they serve, and nobody who asks something notices."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from supervised import PATIENCE, Running, alive, ask_until, finish, running, stream, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Running) -> Running:
    """One for all tests, with a right configuration."""
    shared_gateway.configure("small")
    (shared_gateway.folder / "data" / "go").unlink(missing_ok=True)
    return shared_gateway


async def test_case_28_a_restart_under_load_loses_no_answer_and_cuts_no_stream(gateway: Running) -> None:
    before = await gateway.workers()
    streams = [await stream(gateway.port, b"first") for _ in range(8)]
    ended = asyncio.Event()
    clients = [asyncio.create_task(ask_until(ended, gateway.port)) for _ in range(8)]
    for _ in range(3):
        gateway.restart()
        await gateway.told("all workers were restarted")
    after = await gateway.workers()
    assert set(before.values()) <= gateway.children()  # they serve their streams to the end
    for reader, writer in streams:
        writer.write(b"last")
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE) == b"4\r\nlast\r\n0\r\n\r\n"
        writer.close()
    ended.set()

    assert all([await asyncio.wait_for(client, PATIENCE) for client in clients])
    assert set(before) == set(after)
    await until(lambda: gateway.children() == set(after.values()))


async def test_a_restart_takes_settings_that_a_reload_does_not(gateway: Running) -> None:
    gateway.configure("large")
    gateway.restart()
    await gateway.told("all workers were restarted")

    answers = [await gateway.get() for _ in range(16)]
    assert {tuple(facts["models"]) for facts in answers} == {("large",)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("serverr: {}", "did you mean 'server'?"),
        ("server: {workers: 3}", "server.workers: is taken only when the whole gateway is started anew"),
        ("server: {workers: 2}\nadmin: {listen: 127.0.0.1:4001}", "admin.listen: is taken only when the whole"),
    ],
)
async def test_a_configuration_that_cannot_be_taken_changes_nothing(gateway: Running, text: str, told: str) -> None:
    before = await gateway.workers()
    (gateway.folder / "paymaster.yaml").write_text(text)
    gateway.restart()
    await gateway.told(told)

    assert await gateway.workers() == before


async def test_a_successor_that_does_not_get_ready_leaves_its_predecessor_serving(gateway: Running) -> None:
    before = await gateway.workers()
    gateway.configure("broken")
    gateway.restart()
    await gateway.told("0 of 2 workers were restarted: a successor of worker 0 ended with status 1")

    assert await gateway.workers() == before
    gateway.configure("small")
    gateway.restart()
    await gateway.told("all workers were restarted")


async def test_a_predecessor_that_is_killed_is_followed_by_the_successor_under_way(gateway: Running) -> None:
    before = await gateway.workers()
    coming = await successor(gateway)
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: before[0] not in gateway.children())
    (gateway.folder / "data" / "go").touch()
    await gateway.told("all workers were restarted")

    assert (await gateway.workers())[0] == coming


async def test_a_successor_that_is_killed_leaves_its_predecessor_serving(gateway: Running) -> None:
    before = await gateway.workers()
    os.kill(await successor(gateway), signal.SIGKILL)
    await gateway.told("a successor of worker 0 ended with status -9")

    assert await gateway.workers() == before


async def test_a_worker_that_dies_together_with_its_successor_is_started_again(gateway: Running) -> None:
    before = await gateway.workers()
    coming = await successor(gateway)
    (gateway.folder / "data" / "go").touch()
    for pid in (before[0], coming):
        os.kill(pid, signal.SIGKILL)

    await until(lambda: not {before[0], coming} & gateway.children())
    assert (await gateway.workers())[0] not in {before[0], coming}


async def test_a_reload_reaches_a_successor_that_has_read_the_configuration_already(gateway: Running) -> None:
    await successor(gateway)
    gateway.configure("large")
    gateway.process.send_signal(signal.SIGHUP)
    (gateway.folder / "data" / "go").touch()
    await gateway.told("all workers were restarted")
    gateway.configure("small")

    async with asyncio.timeout(PATIENCE):
        while {tuple((await gateway.get())["models"]) for _ in range(16)} != {("large",)}:
            pass


async def test_a_stop_during_a_restart_ends_everything(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        reader, writer = await stream(gateway.port, b"first")
        await successor(gateway)
        children = gateway.children()
        gateway.process.terminate()
        await finish(reader, writer)

        assert await asyncio.wait_for(gateway.process.wait(), PATIENCE) == 0
        assert len(children) == 3
        assert not any(map(alive, children))


async def test_a_stop_waits_for_who_is_leaving_and_a_second_one_does_not(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        streams = [await stream(gateway.port, b"first") for _ in range(16)]
        leaving = await gateway.workers()
        gateway.restart()
        await gateway.told("all workers were restarted")
        serving = await gateway.workers()
        gateway.process.terminate()
        await until(lambda: not set(serving.values()) & gateway.children())
        assert set(leaving.values()) <= gateway.children()
        gateway.process.terminate()

        assert await asyncio.wait_for(gateway.process.wait(), PATIENCE) == 0
        assert not any(map(alive, leaving.values()))
        for reader, writer in streams:
            assert await reader.read() == b""
            writer.close()


async def test_who_is_leaving_finishes_although_the_supervisor_dies(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        reader, writer = await stream(gateway.port, b"first")
        gateway.restart()
        await gateway.told("all workers were restarted")
        serving = await gateway.workers()
        gateway.process.kill()
        await until(lambda: not any(map(alive, serving.values())))
        writer.write(b"last")

        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE) == b"4\r\nlast\r\n0\r\n\r\n"
        writer.close()
    async with running(tmp_path):
        pass  # whoever starts next has the Redis server that was left, and ends it


async def successor(gateway: Running) -> int:
    """Begin a restart; the process that is to follow worker 0 waits for the file `go`."""
    gateway.configure("held")
    before = gateway.children()
    gateway.restart()
    await until(lambda: len(gateway.children() - before) == 1)
    (coming,) = gateway.children() - before
    return coming
