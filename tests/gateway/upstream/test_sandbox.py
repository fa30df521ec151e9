import json

import pytest
from fakes import Ending, error, fake_upstream, whole

from gateway.errors import NoSandbox, UpstreamFailed
from gateway.upstream.sandbox import SandboxBill

BILL = {"total_usd": "0.003", "attempts": 3, "by_key": {"key_a": "0.003"}}


async def test_the_bill_is_fetched_with_the_token() -> None:
    async with fake_upstream() as sandbox:
        sandbox.will(whole(BILL))
        bill = SandboxBill(sandbox.url, "the-token")

        assert json.loads(await bill.read()) == BILL
        await bill.close()

    (asked,) = sandbox.asked
    assert (asked.path, asked.headers["authorization"]) == ("/bill", "Bearer the-token")


@pytest.mark.parametrize(("url", "token"), [(None, "t"), ("http://127.0.0.1:9/v1", None), (None, None)])
async def test_where_no_sandbox_runs_there_is_no_bill(url: str | None, token: str | None) -> None:
    bill = SandboxBill(url, token)

    with pytest.raises(NoSandbox):
        await bill.read()


@pytest.mark.parametrize("answer", [[Ending.CLOSE], [Ending.SILENCE], error(500), error(401)])
async def test_a_sandbox_that_does_not_answer_is_an_upstream_that_failed(
    answer: list[bytes | Ending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.upstream.sandbox.TIMEOUT", 0.1)
    async with fake_upstream() as sandbox:
        sandbox.will(answer)
        bill = SandboxBill(sandbox.url, "the-token")

        with pytest.raises(UpstreamFailed) as caught:
            await bill.read()
        await bill.close()

    assert caught.value.provider_name == "sandbox"
