from pathlib import Path

import pytest
from redis import Redis

from gateway import ledger_server
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
    monkeypatch.setattr(ledger_server, "ANSWER_TIMEOUT", 0.0)
    with pytest.raises(CannotStart, match="the Redis server cannot be used"):
        LedgerServer(f"unix://{tmp_path}/nothing.sock", tmp_path, run_dir).start(PEPPER)


@pytest.mark.parametrize("login", ["", ":hunter2@"])
def test_a_wrong_password_is_told_at_once_and_not_shown(
    tmp_path: Path, run_dir: Path, redis_url: str, login: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("requirepass", "another")
        try:
            with pytest.raises(CannotStart, match="the Redis server cannot be used") as refusal:
                LedgerServer(redis_url.replace("unix://", f"unix://{login}"), tmp_path, run_dir).start(PEPPER)
        finally:
            redis.config_set("requirepass", "")

    assert "hunter2" not in str(refusal.value)
