"""The provider of a proof and its bill."""

import json
from pathlib import Path

import httpx

from gateway.chaos.provider import Bill, Provider


def row(attempt: str | None, nano: int) -> str:
    return json.dumps({"attempt": attempt, "nano_usd": nano, "key": "unknown"}) + "\n"


def test_a_bill_is_by_the_account_that_an_attempts_id_names(tmp_path: Path) -> None:
    bill = Bill(tmp_path / "bill.jsonl")
    assert (bill.total("a"), bill.rows("a")) == (0, [])
    bill.path.write_text(row("att_a_1", 3) + row("att_b_1", 5) + row(None, 7))
    assert (bill.total("a"), bill.total("b")) == (3, 5)

    with bill.path.open("a") as file:
        file.write(row("att_a_2", 10) + row("att_a_3", 100)[:9])
        file.flush()
        assert bill.total("a") == 13
        file.write(row("att_a_3", 100)[9:])
    assert bill.total("a") == 113
    assert [each["attempt"] for each in bill.rows("a")] == ["att_a_1", "att_a_2", "att_a_3"]


async def test_it_can_be_killed_and_started_again_on_its_port_and_its_bill(tmp_path: Path) -> None:
    async with Provider(tmp_path) as provider, httpx.AsyncClient(trust_env=False) as client:
        host, port = provider.address
        headers = {"authorization": f"Bearer {provider.token}", "x-client-request-id": "att_a_1"}
        body = {"model": "exact", "messages": [{"role": "user", "content": "Hello!"}]}
        url = f"http://{host}:{port}/v1/chat/completions"
        first = await client.post(url, json=body, headers=headers)
        await provider.kill()
        await provider.start()
        second = await client.post(url, json=body, headers=headers)

        assert (first.status_code, second.status_code) == (200, 200)
        assert provider.bill.total("a") == 2_000_000
