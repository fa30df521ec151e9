import asyncio
from pathlib import Path

import pytest
from redis import Redis
from running import ledger_server, running

from budgets.embedded import EmbeddedRedis
from budgets.server_check import PERMISSIONS
from gateway import ledger_server as module
from gateway.errors import CannotStart
from gateway.ledger_server import LedgerServer

PEPPER = "pepper-of-my-own"


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_a_redis_of_ones_own_is_used_and_left_alone(tmp_path: Path, run_dir: Path, redis_url: str) -> None:
    server = LedgerServer(redis_url, tmp_path, run_dir)
    assert server.start(PEPPER) == redis_url
    server.stop()

    with Redis.from_url(redis_url) as redis:
        assert redis.ping()
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_redis_keeps_its_data_from_one_gateway_to_the_next(tmp_path: Path, run_dir: Path) -> None:
    first, second = LedgerServer(None, tmp_path, run_dir), LedgerServer(None, tmp_path, run_dir)
    with Redis.from_url(first.start(PEPPER)) as redis:
        redis.set("spent", 1)
    first.stop()
    with Redis.from_url(second.start(PEPPER)) as redis:
        kept = redis.get("spent")
    second.stop()

    assert kept == b"1"


def test_a_gateway_that_stops_launches_nothing_more(tmp_path: Path, run_dir: Path) -> None:
    server = LedgerServer(None, tmp_path, run_dir)
    server.stop()
    with pytest.raises(CannotStart, match="stopping"):
        server.start(PEPPER)

    assert list(tmp_path.iterdir()) == []


def test_a_redis_with_keys_of_another_pepper_is_refused(tmp_path: Path, run_dir: Path, redis_url: str) -> None:
    LedgerServer(redis_url, tmp_path, run_dir).start(PEPPER)

    with pytest.raises(CannotStart, match="another pepper"):
        LedgerServer(redis_url, tmp_path, run_dir).start("somebody's pepper")


def test_a_redis_that_forgets_is_refused(tmp_path: Path, run_dir: Path, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(CannotStart, match="noeviction"):
                LedgerServer(redis_url, tmp_path, run_dir).start(PEPPER)
        finally:
            redis.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_is_away_is_told(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.0)
    with pytest.raises(CannotStart, match=r"the Redis server at .* cannot be used"):
        LedgerServer(f"unix://{tmp_path}/nothing.sock", tmp_path, run_dir).start(PEPPER)


@pytest.mark.parametrize("login", ["", ":hunter2@"])
def test_a_wrong_password_is_told_at_once_and_not_shown(
    tmp_path: Path, run_dir: Path, redis_url: str, login: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("requirepass", "another")
        try:
            with pytest.raises(CannotStart, match=r"the Redis server at .* cannot be used") as refusal:
                LedgerServer(redis_url.replace("unix://", f"unix://{login}"), tmp_path, run_dir).start(PEPPER)
        finally:
            redis.config_set("requirepass", "")

    assert "hunter2" not in str(refusal.value)


def test_everything_that_makes_a_redis_unfit_is_told_at_once(tmp_path: Path, run_dir: Path) -> None:
    embedded = LedgerServer(None, tmp_path, run_dir)
    url = embedded.start(PEPPER)
    with Redis.from_url(url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(CannotStart) as refusal:
                LedgerServer(url, tmp_path, run_dir).start(PEPPER)
        finally:
            embedded.stop()

    first, *problems = str(refusal.value).split("\n")
    assert first == f"the Redis server at {url.removeprefix('unix://')} is not fit for money:"
    assert ["replica" in problems[0], "noeviction" in problems[1], len(problems)] == [True, True, 2]


def test_what_is_only_risky_is_logged(
    tmp_path: Path, run_dir: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("appendfsync", "no")
        try:
            LedgerServer(redis_url, tmp_path, run_dir).start(PEPPER)
        finally:
            redis.config_set("appendfsync", "everysec")

    assert ["appendfsync everysec" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://:hunter2@localhost", "redis://:hunter2@localhost:x", "redis://:hunter2@h?foo=1"]
)
def test_what_is_no_address_is_told_in_words_and_not_shown(tmp_path: Path, run_dir: Path, url: str) -> None:
    with pytest.raises(CannotStart, match="write redis://user:password@host") as refusal:
        LedgerServer(url, tmp_path, run_dir).start(PEPPER)

    assert "hunter2" not in str(refusal.value)


def test_a_user_who_may_not_touch_our_keys_is_told_what_is_needed(
    tmp_path: Path, run_dir: Path, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.acl_setuser("ann", enabled=True, nopass=True, commands=["+@all"], keys=["theirs:*"])
        with pytest.raises(CannotStart, match="it needs ~pm:"):
            LedgerServer(redis_url.replace("unix://", "unix://ann:x@"), tmp_path, run_dir).start(PEPPER)
        redis.acl_deluser("ann")


async def test_what_a_user_is_said_to_need_is_enough_to_serve(tmp_path: Path) -> None:
    keys, *commands = PERMISSIONS.split()
    with ledger_server() as server:
        with Redis.from_url(server.url) as redis:
            redis.acl_setuser("ann", enabled=True, nopass=True, commands=commands, keys=[keys.removeprefix("~")])
        async with running(server.url.replace("unix://", "unix://ann:x@"), tmp_path) as gateway:
            key = await gateway.create_key("1/day")
            answers = [await gateway.chat(key), await gateway.chat(key, stream=True)]
            answers += [await gateway.admin("PATCH", f"/keys/{key.id}", {"name": "another"})]
            money = await gateway.money(key)
            answers += [await gateway.admin("DELETE", f"/keys/{key.id}"), await gateway.http.get("/readyz")]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert (money.spent > 0, money.held, money.suspense) == (True, 0, 0)


async def test_a_redis_that_cannot_be_brought_back_is_told_of_once(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0
    enough = asyncio.Event()
    started = EmbeddedRedis.start

    def look(embedded: EmbeddedRedis) -> str:
        nonlocal looks
        looks += 1
        if looks == 5:
            loop.call_soon_threadsafe(enough.set)
        return started(embedded)

    (tmp_path / "redis").write_text("a file where the data folder should be")
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(EmbeddedRedis, "start", look)
    loop = asyncio.get_running_loop()
    keeping = asyncio.create_task(LedgerServer(None, tmp_path, run_dir).keep())
    await enough.wait()
    keeping.cancel()
    await asyncio.wait([keeping])

    assert ["cannot be brought back" in line for line in caplog.messages] == [True]
