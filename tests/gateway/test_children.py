import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.children import Child, Life, Program
from gateway.errors import CannotStart

PATIENCE = 10.0
"""Seconds after which a test gives up; no test waits that long when the code is right."""


class Shell(Child):
    """Runs a shell command; counts how often."""

    def __init__(self, command: Sequence[str], line: str = "") -> None:
        super().__init__("the shell", Program(command, {}))
        self.spawned: asyncio.Queue[Life] = asyncio.Queue()
        self._text = line

    async def spawn(self) -> Life:
        life = Life(await self._execute(inherit=[]))
        self.spawned.put_nowait(life)
        return life

    async def line(self, life: Life) -> str:
        return self._text

    async def next(self) -> Life:
        """The process that was started next."""
        return await asyncio.wait_for(self.spawned.get(), PATIENCE)


@asynccontextmanager
async def kept(script: str, line: str = "") -> AsyncIterator[Shell]:
    """A child that is kept running while the body does."""
    child = Shell(["/bin/sh", "-c", script], line)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(child.keep())
        try:
            yield child
        finally:
            child.stop()
            await child.ended(0.0)
            keeping.cancel()


async def test_a_process_is_told_its_line_and_its_input_stays_open(tmp_path: Path) -> None:
    told = tmp_path / "told"
    async with kept(f'read -r line; echo "$line" > {told}.part; mv {told}.part {told}; read -r more', "hello") as child:
        process = (await child.next()).process
        await made(told)

        assert told.read_text() == "hello\n"
        assert process.returncode is None


async def test_a_process_that_ends_gets_successors() -> None:
    async with kept("read -r line; read -r more") as child:
        child.tell_ready()
        processes = []
        for _ in range(3):
            processes.append((await child.next()).process)
            processes[-1].kill()

        assert len({process.pid for process in processes}) == 3


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$"])
async def test_a_first_process_that_ends_before_it_is_ready_gets_no_successor(script: str) -> None:
    async with kept(script) as child:
        with pytest.raises(CannotStart, match=r"the shell ended with status (3|-9) before it was ready"):
            await asyncio.wait_for(child.ready, PATIENCE)

        assert child.spawned.qsize() == 1


async def test_a_program_that_is_not_there_is_a_failed_start() -> None:
    child = Shell(["/nowhere/to/be/found"])
    await child.keep()

    with pytest.raises(CannotStart):
        await child.ready


async def test_a_process_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    async with kept(f"trap '' TERM; : > {deaf}; while :; do read -r line; done") as child:
        process = (await child.next()).process
        await made(deaf)
        child.stop()
        await child.ended(0.1)

        assert process.returncode == -9
        assert child.spawned.empty()


async def test_a_process_that_does_not_serve_yet_is_asked_to_reload_when_it_does() -> None:
    async with kept("read -r line; read -r more") as child:
        life = await child.next()
        life.reload()
        assert life.process.returncode is None
        life.begin(serving=True)

        assert await asyncio.wait_for(life.process.wait(), PATIENCE) == -1


async def made(file: Path) -> None:
    """Wait until the process has made this file."""
    async with asyncio.timeout(PATIENCE):
        while not file.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
