import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import COST, DONE, LAST_CHUNK, broken_stream, completion, delta, usage_event
from redis.asyncio import Redis
from running import Key, ledger_server, running

from budgets.redis_ledger import RedisLedger

CREATE = """
import io, json, sys
from functools import partial
from pathlib import Path
from gateway.app import create_app
from gateway.settings import Runtime, load
from gateway.telemetry.logs import LineWriter

folder = Path(sys.argv[1])
runtime = Runtime(redis_url="redis://127.0.0.1:1", admin_key="a", pepper="p", run_dir=folder)
settings = load(None, {"PAYMASTER_DATA_DIR": str(folder), "OPENAI_API_KEY": "sk-none"}, runtime)
create_app(settings, runtime, LineWriter(io.BytesIO()), reread=lambda: settings)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_worker_does_not_load_what_it_may_never_need(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CREATE, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    loaded = set(json.loads(finished.stdout))
    assert "gateway" in loaded
    assert not loaded & {"litellm", "tiktoken", "openai", "numpy", "httpx", "typer", "rich", "requests"}


async def spent(redis_url: str, key: Key) -> int:
    """What Redis itself says, whether or not a gateway runs."""
    async with Redis.from_url(redis_url) as redis:
        return int((await redis.hget(f"pm:{{default}}:scope:key:{key.id}", "lifetime:0") or b"0").split()[0])


async def test_case_28_what_was_spent_last_is_booked_before_the_end(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway:
        key = await gateway.create_key("1/lifetime")
        for _ in range(20):
            await gateway.chat(key)

    assert await spent(redis_url, key) == 20 * COST


async def test_case_28_a_stream_under_way_is_finished_before_the_end(redis_url: str, tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with running(redis_url, tmp_path) as gateway:
        key = await gateway.create_key("1/lifetime")
        ending = (delta(finish="stop"), usage_event(), DONE)
        gateway.upstream.will([*broken_stream(delta("a"), go_on, *ending), LAST_CHUNK])
        reader, writer = await gateway.open_chat(key, stream=True)
        await reader.readuntil(delta("a"))
        gateway.stop()
        go_on.set()

        assert (await reader.read()).endswith(DONE + b"\r\n" + LAST_CHUNK)
        writer.close()

    assert await spent(redis_url, key) == COST


async def test_without_the_ledger_a_gateway_starts_and_serves_once_it_is_there(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        ledger.kill()
        async with running(ledger.url, tmp_path) as gateway:
            assert (await gateway.http.get("/healthz")).status_code == 200
            assert (await gateway.http.get("/readyz")).status_code == 503

            ledger.start()
            async with asyncio.timeout(20):
                while (await gateway.http.get("/readyz")).status_code != 200:
                    pass
            key = await gateway.create_key("1/lifetime")
            assert (await gateway.chat(key)).status_code == 200


async def test_what_the_ledger_did_not_take_is_booked_by_the_next_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.LAST_SETTLES", 0.1)
    go_on = asyncio.Event()
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            key = await gateway.create_key("1/lifetime")
            gateway.upstream.will([go_on, *completion()])
            chat = asyncio.create_task(gateway.chat(key))
            await gateway.upstream.was_asked.wait()
            ledger.kill()
            go_on.set()
            assert (await chat).status_code == 200

        ledger.start()
        async with running(ledger.url, tmp_path), asyncio.timeout(20):
            while await spent(ledger.url, key) != COST:
                pass


async def test_a_worker_without_its_background_work_stops_so_that_another_takes_its_place(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, told = asyncio.Event(), asyncio.Event()

    async def breaks(_: RedisLedger) -> None:
        await broken.wait()
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(RedisLedger, "run", breaks)
    async with running(redis_url, tmp_path) as gateway:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: (gateway.stop(), told.set()))
        broken.set()
        await asyncio.wait_for(told.wait(), 10)

    assert "nobody thought of this" in caplog.text
