"""The house rules that a test can check: what has to be where, what must not be anywhere, who may open which door."""

import re
import subprocess
import tomllib
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel
from running import ADMIN_KEY, Running, running

from gateway.settings import Settings
from gateway.telemetry import semconv

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "routing", "budgets")
MOST_LINES = 500

TESTED_ELSEWHERE = {
    "budgets/errors.py": "facts only; tests/gateway/api/test_errors.py has each",
    "gateway/errors.py": "facts only; tests/gateway/api/test_errors.py has each",
    "gateway/wire/errors.py": "facts only; tests/gateway/api/test_errors.py has each",
    "gateway/wire/request.py": "a record; tests/gateway/wire/test_chat.py fills it",
    "gateway/cli/errors.py": "one exception, raised by every command's tests",
    "gateway/telemetry/budget_rows.py": "read by /metrics: tests/gateway/api/test_operations.py",
    "gateway/chaos/books.py": "what every world is asked for: tests/gateway/chaos/test_world.py",
    "gateway/chaos/serve.py": "the gateway of every world: tests/gateway/chaos/test_world.py",
    "gateway/chaos/worker.py": "its workers: tests/gateway/chaos/test_wrappers.py",
    "gateway/__main__.py": "the program itself: tests/end_to_end",
    "gateway/sandbox/__main__.py": "tests/gateway/sandbox/test_main.py",
    "routing/errors.py": "facts only",
    "routing/deployment.py": "records",
    "routing/weights.py": "numbers: tests/routing/training/test_fit.py makes them anew",
}


def files(*endings: str) -> Iterator[Path]:
    """What belongs to the repository, by the version control's own list."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone of the repository: there is no list of its files")
    for name in listed.stdout.splitlines():
        if name.endswith(endings) and (ROOT / name).is_file():
            yield ROOT / name


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")


# What has to be where


def test_every_module_has_its_tests_where_they_are_looked_for() -> None:
    untested = {
        str(module) for module in modules() if not (ROOT / "tests" / module.parent / f"test_{module.name}").exists()
    }

    assert untested == set(TESTED_ELSEWHERE)


def test_every_setting_is_explained() -> None:
    explained = (ROOT / "README.md").read_text() + (ROOT / "paymaster.example.yaml").read_text()

    unexplained = [name for name in settings_of(Settings) if not re.search(rf"\b{name}\b", explained)]

    assert unexplained == []


def settings_of(section: type[BaseModel]) -> Iterator[str]:
    """The names of all fields, those of the sections within too."""
    for name, field in section.model_fields.items():
        yield name
        annotation: Any = field.annotation
        for part in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from settings_of(part)


def test_every_metric_is_shown_or_watched() -> None:
    shown = "".join(path.read_text() for path in (ROOT / "grafana").rglob("*") if path.suffix in (".json", ".yaml"))

    assert [series.name for series in semconv.ALL if series.name not in shown] == []


def test_the_sandbox_is_kept_from_every_module_of_ours() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (stranger,) = [contract for contract in contracts if contract.get("source_modules") == ["gateway.sandbox"]]

    siblings = {".".join(module.with_suffix("").parts[:2]) for module in modules() if module.parts[0] == "gateway"}
    assert set(stranger["forbidden_modules"]) == siblings - {"gateway.sandbox"} | {"routing", "budgets"}


# What must not be anywhere


def test_no_file_is_longer_than_a_reader_can_bear() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files(".py", ".lua")}

    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize(
    "word",
    [
        r"(?<![\w.>/])/(work|home|root|Users)/\w",  # somebody's machine
        r"\b(TODO|FIXME|XXX|HACK)\b",
        r"NotImplementedError",
    ],
)
def test_no_file_has_what_belongs_to_one_machine_or_one_moment(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files(".py", ".lua", ".md", ".yaml", ".toml", "Makefile", "Dockerfile", ".ci/run")
        if path != Path(__file__) and (match := re.search(word, path.read_text()))
    ]

    assert found == []


# Who may open which door

EVERYBODY, KEYS, ADMIN = "everybody", "virtual keys", "the admin key"
KEY_ID = "key_default_0123456789abcdef"
DOORS = {
    ("POST", "/v1/chat/completions"): KEYS,
    ("POST", "/chat/completions"): KEYS,
    ("GET", "/v1/models"): KEYS,
    ("GET", "/models"): KEYS,
    ("GET", "/v1/budget"): KEYS,
    ("POST", "/admin/keys"): ADMIN,
    ("GET", "/admin/keys"): ADMIN,
    ("GET", "/admin/keys/{key_id}"): ADMIN,
    ("PATCH", "/admin/keys/{key_id}"): ADMIN,
    ("DELETE", "/admin/keys/{key_id}"): ADMIN,
    ("POST", "/admin/keys/{key_id}/block"): ADMIN,
    ("POST", "/admin/keys/{key_id}/unblock"): ADMIN,
    ("GET", "/admin/accounts/{account}"): ADMIN,
    ("PATCH", "/admin/accounts/{account}"): ADMIN,
    ("POST", "/admin/route/explain"): ADMIN,
    ("POST", "/admin/config/reload"): ADMIN,
    ("GET", "/admin/suspense"): ADMIN,
    ("POST", "/admin/reconcile"): ADMIN,
    ("POST", "/admin/reconcile/absent"): ADMIN,
    ("GET", "/admin/ledger"): ADMIN,
    ("POST", "/admin/ledger/confirm"): ADMIN,
    ("GET", "/healthz"): EVERYBODY,
    ("GET", "/readyz"): EVERYBODY,
    ("GET", "/metrics"): EVERYBODY,
    ("GET", "/sandbox/bill"): EVERYBODY,
    ("GET", "/openapi.json"): EVERYBODY,
    ("GET", "/docs"): EVERYBODY,
    ("GET", "/docs/oauth2-redirect"): EVERYBODY,
}
"""Every route, and whom it serves. A new one has to be entered here."""

BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/chat/completions"): {"model": "small", "messages": [{"role": "user", "content": "Hi!"}]},
    ("POST", "/chat/completions"): {"model": "small", "messages": [{"role": "user", "content": "Hi!"}]},
    ("POST", "/admin/keys"): {"name": "k"},
    ("PATCH", "/admin/keys/{key_id}"): {"name": "k"},
    ("PATCH", "/admin/accounts/{account}"): {"limits": []},
    ("POST", "/admin/reconcile"): {"rows": [{"attempt_id": "att_default_1", "usd": "0"}]},
    ("POST", "/admin/reconcile/absent"): {"provider": "acme", "until": 0, "attempts": []},
    ("POST", "/admin/route/explain"): {"model": "auto", "messages": [{"role": "user", "content": "Hi!"}]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.mark.asyncio(loop_scope="module")
async def test_case_26_every_door_is_in_the_list(gateway: Running) -> None:
    edge: Any = gateway.app._edge  # nobody else needs to list what it serves
    doors = {("POST", path) for path in edge._endpoints} | set(doors_of(edge._service.routes))

    assert doors == set(DOORS)


def doors_of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every route with each of its methods, those of included routers too."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from doors_of(route.original_router.routes)
        else:
            yield from ((method, route.path) for method in route.methods if method != "HEAD")


@pytest.mark.parametrize(("method", "path"), DOORS)
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
@pytest.mark.asyncio(loop_scope="module")
async def test_every_door_opens_to_those_it_is_for_and_to_nobody_else(
    gateway: Running, method: str, path: str, header: str
) -> None:
    key = await gateway.create_key()
    credentials = {EVERYBODY: None, KEYS: key.text, ADMIN: ADMIN_KEY}
    url = path.replace("{key_id}", (await gateway.create_key()).id)

    refused = {}
    for who, text in credentials.items():
        headers = {} if text is None else {header: f"Bearer {text}" if header == "authorization" else text}
        answer = await gateway.http.request(method, url, json=BODIES.get((method, path)), headers=headers)
        refused[who] = answer.status_code == 401

    opens_to = DOORS[method, path]
    assert refused == {who: opens_to not in (who, EVERYBODY) for who in credentials}
