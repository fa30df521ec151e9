"""The admin key and the pepper: given, or made at the first start and kept in the data folder for its owner alone."""

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from redis import Redis

from gateway.errors import CannotStart
from gateway.settings import SecretSettings

ADMIN_KEY_FILE = "admin.key"
PEPPER_FILE = "pepper"
SHORTEST_SECRET = 16
"""Characters; shorter ones can be guessed."""
_FINGERPRINT = "pm:pepper"
_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Secrets:
    """`admin_key` opens the admin API; `pepper` is what the digests of virtual keys are made with."""

    admin_key: str = field(repr=False)
    pepper: str = field(repr=False)


def find_secrets(given: SecretSettings, data_dir: Path, *, redis_is_ours: bool) -> Secrets:
    """What was given, else what the data folder keeps, else new secrets, kept there from now on.

    A Redis of somebody's own may serve gateways elsewhere, which need the same secrets: then both must be given.
    Raises CannotStart where they are not, or where one is too short.
    """
    if not redis_is_ours:
        missing = [name for name, value in _by_variable(given).items() if value is None]
        if missing:
            reason = "all gateways on it need the same, so none is made up here"
            raise CannotStart(f"with a Redis of your own, set {' and '.join(missing)} too: {reason}")
    return Secrets(
        admin_key=_secret("PAYMASTER_ADMIN_KEY", given.admin_key, data_dir / ADMIN_KEY_FILE, _new_admin_key),
        pepper=_secret("PAYMASTER_PEPPER", given.pepper, data_dir / PEPPER_FILE, _new_pepper),
    )


def check_pepper(redis: Redis, pepper: str) -> None:
    """See to it that this Redis knows this pepper and no other. Raises CannotStart where it knows another.

    With another pepper every key in this Redis would be unknown, and new ones would be lost to the right one.
    """
    digest = hashlib.sha256(b"paymaster pepper " + pepper.encode()).hexdigest()
    ours = digest[:_FINGERPRINT_DIGITS].encode()
    theirs = redis.set(_FINGERPRINT, ours, nx=True, get=True)
    if theirs not in (None, ours):
        reason = "the keys in this Redis were made with another pepper"
        raise CannotStart(f"{reason}; set PAYMASTER_PEPPER to that one, or use another Redis")


def _by_variable(given: SecretSettings) -> dict[str, SecretStr | None]:
    return {"PAYMASTER_ADMIN_KEY": given.admin_key, "PAYMASTER_PEPPER": given.pepper}


def _secret(variable: str, given: SecretStr | None, file: Path, new: Callable[[], str]) -> str:
    if given is not None:
        source, value = variable, given.get_secret_value()
    else:
        source, value = str(file), _kept(file, new)
    if len(value) < SHORTEST_SECRET:
        raise CannotStart(f"{source}: a secret needs {SHORTEST_SECRET} characters or more, not {len(value)}")
    return value


def _kept(file: Path, new: Callable[[], str]) -> str:
    """The file's text. Where there is no file it is made, whole or not at all; of several makers the first one wins."""
    if not file.exists():
        draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(new() + "\n")
            stream.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, file)
        except FileExistsError:
            pass  # somebody was faster
        finally:
            draft.unlink()
    return file.read_text(encoding="utf-8").strip()


def _new_admin_key() -> str:
    return f"pm-admin-{secrets.token_urlsafe(32)}"


def _new_pepper() -> str:
    return secrets.token_urlsafe(32)
