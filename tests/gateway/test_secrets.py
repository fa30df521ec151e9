import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from gateway.errors import CannotStart
from gateway.secrets import ADMIN_KEY_FILE, PEPPER_FILE, Secrets, check_pepper, find_secrets
from gateway.settings import SecretSettings

NOTHING = SecretSettings()
BOTH = SecretSettings(admin_key=SecretStr("admin-key-of-mine"), pepper=SecretStr("pepper-of-my-own"))


def test_secrets_are_made_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    first = find_secrets(NOTHING, tmp_path, redis_is_ours=True)

    assert find_secrets(NOTHING, tmp_path, redis_is_ours=True) == first
    assert first.admin_key != first.pepper
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ADMIN_KEY_FILE, PEPPER_FILE])
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_secrets_made_twice_at_once_are_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: find_secrets(NOTHING, tmp_path, redis_is_ours=True), range(32)))

    assert len({secrets.pepper for secrets in found}) == 1


@pytest.mark.parametrize("redis_is_ours", [True, False])
def test_given_secrets_are_used_and_nothing_is_kept(tmp_path: Path, redis_is_ours: bool) -> None:
    secrets = find_secrets(BOTH, tmp_path, redis_is_ours=redis_is_ours)

    assert secrets == Secrets("admin-key-of-mine", "pepper-of-my-own")
    assert list(tmp_path.iterdir()) == []


def test_a_redis_of_ones_own_needs_secrets_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="set PAYMASTER_ADMIN_KEY and PAYMASTER_PEPPER too"):
        find_secrets(NOTHING, tmp_path, redis_is_ours=False)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("secret", ["", "fifteen letters"])
def test_a_secret_that_can_be_guessed_is_refused(tmp_path: Path, secret: str) -> None:
    given = SecretSettings(pepper=SecretStr(secret))
    with pytest.raises(CannotStart, match="PAYMASTER_PEPPER: a secret needs 16 characters") as refusal:
        find_secrets(given, tmp_path, redis_is_ours=True)

    assert not secret or secret not in str(refusal.value)


def test_a_kept_secret_that_was_emptied_is_refused(tmp_path: Path) -> None:
    (tmp_path / ADMIN_KEY_FILE).touch()
    with pytest.raises(CannotStart, match=ADMIN_KEY_FILE):
        find_secrets(NOTHING, tmp_path, redis_is_ours=True)


def test_secrets_are_not_shown_by_accident() -> None:
    assert "secret" not in repr(Secrets("secret-1", "secret-2"))


def test_a_redis_with_keys_of_another_pepper_is_refused(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        check_pepper(redis, "pepper-of-my-own")
        check_pepper(redis, "pepper-of-my-own")

        with pytest.raises(CannotStart, match="another pepper"):
            check_pepper(redis, "somebody's pepper")
        assert b"pepper-of-my-own" not in b"".join(redis.get(key) for key in redis.scan_iter())
