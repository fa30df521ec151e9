"""Streams held in instalments, at a provider that bills what it delivered before it was cut."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest
from gateway_process import GatewayProcess, Key
from openai import APIError

CONFIGURATION = {
    "providers": {"sandbox": {"kind": "sandbox", "on_disconnect": "abort", "instalment": 200}},
    "models": {"small": {"provider": "sandbox", "model": "sandbox-small"}},
}
OUT = Decimal("0.0000004")
"""USD: a token of output there."""
LONGEST = 16_000
"""Tokens; held at once they would be 0.0064 USD."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), workers=2, configuration=CONFIGURATION) as gateway:
        yield gateway


async def listen(gateway: GatewayProcess, key: Key, prompt: str) -> tuple[int, str | None]:
    """How many pieces of an answer came, and the message of the error that cut it, if one did."""
    pieces = 0
    async with gateway.async_openai(key, max_retries=0) as client:
        try:
            stream = await client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": prompt}], max_tokens=LONGEST, stream=True
            )
            async for chunk in stream:
                pieces += bool(chunk.choices and chunk.choices[0].delta.content)
        except APIError as error:
            return pieces, error.message
    return pieces, None


async def test_ten_long_streams_run_at_once_on_the_budget_of_one(gateway: GatewayProcess) -> None:
    key = gateway.create_key("0.007/lifetime")

    heard = await asyncio.gather(*(listen(gateway, key, f"Tell me a story. {n} [[long 120]]") for n in range(10)))

    assert heard == [(120, None)] * 10
    money = gateway.settled(key)
    assert (money.spent, money.suspense) == (gateway.billed(key), 0)


async def test_a_stream_that_outruns_its_budget_is_cut_before_it_costs_more(gateway: GatewayProcess) -> None:
    limit = Decimal("0.001")
    key = gateway.create_key(f"{limit}/lifetime")

    pieces, error = await listen(gateway, key, "Tell me a story. [[long 15000]] [[bill delivered]] [[slow 1ms]]")

    assert error is not None
    assert error.startswith("The answer was cut, because the budget of this key does not cover more of it: 0.001 USD")
    money, billed = gateway.settled(key), gateway.billed(key)
    assert 0 < pieces * OUT < billed <= money.suspense <= limit
    assert money.spent == 0


async def test_streams_in_instalments_end_with_the_books_at_the_bill(gateway: GatewayProcess) -> None:
    key = gateway.create_key("1/lifetime")
    lengths = (1, 199, 200, 201, 1_000, 3_000)

    heard = await asyncio.gather(
        *(listen(gateway, key, f"Tell me a story. [[long {n}]] [[bill delivered]] [[slow 0ms]]") for n in lengths)
    )

    assert heard == [(length, None) for length in lengths]
    money = gateway.settled(key)
    assert (money.spent, money.suspense) == (gateway.billed(key), 0)
