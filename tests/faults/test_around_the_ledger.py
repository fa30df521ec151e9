"""There is no way to a provider around the ledger: every route is walked, and so is every import."""

import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fakes import COST
from running import ADMIN_KEY, Key, Running, running
from test_project import ADMIN, BODIES, DOORS, KEYS, ROOT

from budgets.ledger import Reservation
from gateway.upstream.http import Upstream

OTHER_PROGRAMS = ("gateway/cli", "gateway/chaos", "gateway/sandbox", "gateway/process.py", "gateway/children.py")
"""They run beside the gateway, and serve none of its callers."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def walk(gateway: Running, method: str, path: str, key: Key) -> int:
    """The status of a request that may go through this door; with `key` where it is for virtual keys."""
    text = {KEYS: key.text, ADMIN: ADMIN_KEY}.get(DOORS[method, path], "")
    url = path.replace("{key_id}", (await gateway.create_key()).id).replace("{account}", "default")
    answer = await gateway.http.request(method, url, json=BODIES.get((method, path)), headers={"x-api-key": text})
    return answer.status_code


@pytest.mark.parametrize(("method", "path"), DOORS)
@pytest.mark.asyncio(loop_scope="module")
async def test_case_26_behind_no_door_a_provider_is_asked_for_who_has_no_money_or_without_being_booked(
    gateway: Running, method: str, path: str
) -> None:
    poor, rich = await gateway.create_key("0/lifetime"), await gateway.create_key("1/lifetime")
    gateway.fresh()

    without_money = await walk(gateway, method, path, poor)
    assert gateway.upstream.asked == []
    with_money = await walk(gateway, method, path, rich)

    asked = len(gateway.upstream.asked)
    assert await gateway.spent(rich) == COST * asked
    if asked:
        assert (without_money, with_money) == (402, 200)
    else:
        assert without_money == with_money != 401


def test_case_26_what_sends_to_a_provider_demands_a_reservation() -> None:
    reservation = inspect.signature(Upstream.send).parameters["reservation"]

    assert reservation.annotation is Reservation
    assert reservation.default is inspect.Parameter.empty


@pytest.mark.parametrize(
    ("what", "who"),
    [
        (r"gateway\.upstream\.http1 import", {"gateway/upstream/http.py", "gateway/upstream/sandbox.py"}),
        (r"gateway\.upstream\.http import .*\bUpstream\b", {"gateway/app.py", "gateway/pipeline.py"}),
        (
            r"gateway\.upstream\.(connection|dial|pool) import",
            {"gateway/upstream/http1.py", "gateway/upstream/connection.py"},
        ),
        (r"^(import|from) (httpx|httpcore|requests|aiohttp|urllib\.request|urllib3|http\.client)\b", set()),
        (r"\b(open_connection|create_connection)\(", {"gateway/upstream/http1.py", "budgets/redis_connection.py"}),
    ],
)
def test_case_26_only_the_pipeline_and_what_is_below_it_can_reach_a_provider(what: str, who: set[str]) -> None:
    assert {str(path) for path in modules() if re.search(what, (ROOT / path).read_text(), re.MULTILINE)} == who


def modules() -> list[Path]:
    """Those of which a worker is made."""
    found = [
        path.relative_to(ROOT)
        for package in ("gateway", "budgets", "routing")
        for path in (ROOT / package).rglob("*.py")
    ]
    return [path for path in found if not str(path).startswith(OTHER_PROGRAMS)]
