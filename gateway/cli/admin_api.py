"""The admin API of a running gateway, as the commands call it."""

import os
from collections.abc import Mapping
from typing import Any

import httpx

from gateway.cli.errors import CommandError
from gateway.configuration import ConfigurationError, admin_url, configuration_path, data_dir, read

KEY_FILE = "admin.key"


class AdminApi:
    """One gateway's admin API. Use it as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        """`key` is the admin key. Proxies of the environment are not used: the key goes to the gateway alone."""
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30.0, trust_env=False
        )

    def __enter__(self) -> "AdminApi":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> "Answer":
        """One call. Raises CommandError, with the gateway's own words where it refuses."""
        try:
            response = self._client.request(method, path, json=body, params=query)
        except httpx.TransportError as exc:
            hint = "start one with `paymaster serve`, or set PAYMASTER_URL"
            raise CommandError(f"no gateway answers at {self.url}; {hint}") from exc
        except httpx.InvalidURL as exc:
            raise CommandError(f"{self.url!r} is no address of a gateway, set PAYMASTER_URL: {exc}") from exc
        if response.is_success:
            return Answer(response)
        raise CommandError(self._refusal(response))

    def _refusal(self, response: httpx.Response) -> str:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answers {response.status_code}, but not as a Paymaster gateway; check PAYMASTER_URL"
        if response.status_code in (401, 403):
            return f"{message}\nThe admin key comes from PAYMASTER_ADMIN_KEY, else from {KEY_FILE} in the data folder."
        return message


class Answer:
    """What the gateway answered: `text` as it came, `fields` parsed."""

    def __init__(self, response: httpx.Response) -> None:
        self.text = response.text
        self.fields: dict[str, Any] = response.json() if response.content else {}


def connect(environ: Mapping[str, str] | None = None) -> AdminApi:
    """The gateway at PAYMASTER_URL, else the local one, with its admin key. Raises CommandError for want of a key."""
    environ = os.environ if environ is None else environ
    return AdminApi(environ.get("PAYMASTER_URL") or admin_url(_configured(environ)), admin_key(environ))


def admin_key(environ: Mapping[str, str]) -> str:
    """From PAYMASTER_ADMIN_KEY, else from the data folder of a local gateway. Raises CommandError for neither."""
    if environ.get("PAYMASTER_ADMIN_KEY"):
        return environ["PAYMASTER_ADMIN_KEY"]
    file = data_dir(environ, _configured(environ).get("data_dir")) / KEY_FILE
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError as exc:
        hint = (
            "set PAYMASTER_ADMIN_KEY, or PAYMASTER_DATA_DIR as the gateway has it, "
            f"or start a gateway here with `paymaster serve`; {file} does not exist"
        )
        raise CommandError(f"no admin key; {hint}") from exc
    except OSError as exc:
        raise CommandError(f"the admin key {file} cannot be read: {exc.strerror}") from exc


def _configured(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's values, as a local gateway finds it; variables that only the gateway needs may be missing here."""
    try:
        return read(configuration_path(None, environ), environ).values
    except ConfigurationError as exc:
        raise CommandError(str(exc)) from exc
