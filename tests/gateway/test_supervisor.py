import asyncio
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from supervised import (
    CONFIGURATION,
    PATIENCE,
    Running,
    alive,
    ask_until_refused,
    child_of,
    finish,
    get,
    launch,
    listens,
    running,
    sandbox,
    stream,
    told,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One for all tests that leave it as they found it."""
    async with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def test_one_start_makes_secrets_serves_with_all_workers_and_one_stop_ends_everything(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        workers = await gateway.workers()
        facts = await gateway.get()
        bill = await get(*sandbox(facts))
        secrets = {file: (tmp_path / "data" / file).stat().st_mode for file in ("admin.key", "pepper")}

        assert set(workers) == {0, 1}
        assert bill["attempts"] == 0
        assert {stat.S_IMODE(mode) for mode in secrets.values()} == {0o600}
        assert await gateway.stop() == 0
        assert not any(map(alive, workers.values()))
        assert not listens(gateway.port)
        assert not listens(sandbox(facts)[0])
        assert not listens(facts["redis_url"].removeprefix("unix://"))


async def test_a_worker_that_was_killed_gets_a_successor_on_the_same_socket(gateway: Running) -> None:
    before = await gateway.workers()
    os.kill(before[1], signal.SIGKILL)
    answers = [await gateway.get() for _ in range(16)]
    await gateway.told("worker 1 ended with status -9")
    after = await gateway.workers()

    assert {facts["pid"] for facts in answers} <= {before[0], after[1]}
    assert before[0] == after[0]
    assert before[1] != after[1]


async def test_workers_end_when_their_supervisor_dies_and_the_next_one_takes_over(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        before = await gateway.workers()
        facts = await gateway.get()
        reader, writer = await stream(gateway.port, b"first")
        gateway.process.kill()
        successor = await launch(tmp_path, gateway.port)
        try:
            await told(successor, "ready")
            after = await gateway.workers()
            await finish(reader, writer)

            assert not set(before.values()) & set(after.values())
            assert (await gateway.get())["redis_url"] == facts["redis_url"]
            assert sandbox(await gateway.get()) != sandbox(facts)
        finally:
            successor.terminate()
            await successor.communicate()


async def test_case_28_a_stop_under_load_loses_no_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        streams = [await stream(gateway.port, b"first") for _ in range(8)]
        started = asyncio.Event()
        clients = [asyncio.create_task(ask_until_refused(gateway.port, started)) for _ in range(8)]
        await started.wait()
        gateway.process.terminate()
        answers = [await asyncio.wait_for(client, PATIENCE) for client in clients]
        for reader, writer in streams:
            await finish(reader, writer)

        assert await asyncio.wait_for(gateway.process.wait(), PATIENCE) == 0
        assert all(answers)


async def test_a_sandbox_that_was_killed_comes_back_with_its_address_and_token(gateway: Running) -> None:
    where = sandbox(await gateway.get())
    os.kill(child_of(gateway.process, "gateway.sandbox"), signal.SIGKILL)
    await gateway.told("the sandbox ended with status -9")

    assert (await get(*where))["attempts"] == 0


async def test_an_embedded_redis_that_was_killed_comes_back(gateway: Running) -> None:
    path = (await gateway.get())["redis_url"].removeprefix("unix://")
    os.kill(child_of(gateway.process, "valkey-server"), signal.SIGKILL)

    await until(lambda: not listens(path))
    await until(lambda: listens(path))


async def test_a_reload_that_one_worker_is_asked_for_reaches_all(gateway: Running) -> None:
    gateway.configure("large")
    await gateway.get("/reload")
    for _ in range(2):
        await gateway.told("read anew")
    gateway.configure("huge")
    gateway.process.send_signal(signal.SIGHUP)
    for _ in range(2):
        await gateway.told("read anew")

    models = {facts["worker"]: facts["models"] for facts in [await gateway.get() for _ in range(32)]}
    assert models == {0: ["huge"], 1: ["huge"]}


async def test_a_worker_that_cannot_start_ends_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text(CONFIGURATION.format(model="broken"))
    process = await launch(tmp_path)
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)

    assert process.returncode == 1
    assert b"broken on purpose" in output
    assert b"cannot start: worker" in output
    assert b"Traceback" not in output


async def test_a_second_gateway_on_the_same_data_is_refused(gateway: Running) -> None:
    second = await launch(gateway.folder)
    await told(second, "cannot start: another gateway is running on")

    assert await second.wait() == 1
    assert set(await gateway.workers()) == {0, 1}


async def test_a_stop_during_the_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text(CONFIGURATION.format(model="small"))
    environ = {"REDIS_URL": "redis://127.0.0.1:9", "PAYMASTER_ADMIN_KEY": "a" * 16, "PAYMASTER_PEPPER": "p" * 16}
    process = await launch(tmp_path, environ=environ)
    await until((tmp_path / "data" / "metrics").exists)
    process.terminate()

    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    await process.communicate()


async def test_the_supervisor_is_light() -> None:
    heavy = "{'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'litellm', 'tiktoken', 'aiohttp', 'pyreqwest'}"
    code = f"import sys, gateway.supervisor; print(sorted({heavy} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE)
    loaded, _ = await asyncio.wait_for(process.communicate(), PATIENCE)

    assert loaded == b"[]\n"
