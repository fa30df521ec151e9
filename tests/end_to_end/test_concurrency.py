"""Many callers on one key, two workers: whatever the order of things, a cap holds and the books are the bill.

`PAYMASTER_FULL=1` runs 64 callers with 500 requests each, which takes minutes: see docs/figures.md.
"""

import itertools
import os
from collections import Counter
from decimal import Decimal

from chaos_callers import crowd
from gateway_process import GatewayProcess, Key, Money

from gateway.chaos.load import Answer, Caller, chat

CALLERS = 64
ROUNDS = 500 if os.environ.get("PAYMASTER_FULL") else 20
"""Requests of each caller."""
PROMPTS = (
    "Say hello.",
    "What is the capital of Peru? [[long 40]]",
    "Prove that there are infinitely many primes, step by step, and discuss each assumption.",
    "Translate 'good morning' into French, Spanish and Italian.",
)
MODELS = ("sandbox-small", "sandbox-medium", "sandbox-large", "auto")


async def test_of_requests_with_a_flat_price_exactly_those_succeed_that_the_cap_pays_for(
    gateway: GatewayProcess,
) -> None:
    affordable = CALLERS * ROUNDS // 3
    key = gateway.create_key(f"{affordable * Decimal('0.001')}/lifetime")
    answers = await answers_to_a_crowd(gateway, key, ("exact",))

    assert Counter(answer.status for answer in answers) == {200: affordable, 402: CALLERS * ROUNDS - affordable}
    assert all(falls_short(answer) for answer in answers if answer.status == 402)
    assert gateway.settled(key) == Money(spent=affordable * Decimal("0.001"), held=Decimal(0), suspense=Decimal(0))
    assert gateway.billed(key) == affordable * Decimal("0.001")


async def test_at_whatever_price_the_books_are_the_bill_and_the_cap_holds(gateway: GatewayProcess) -> None:
    cap = CALLERS * ROUNDS * Decimal("0.00025")
    key = gateway.create_key(f"{cap}/lifetime")
    answers = await answers_to_a_crowd(gateway, key, MODELS)

    assert {answer.status for answer in answers} == {200, 402}
    assert all(falls_short(answer) for answer in answers if answer.status == 402)
    assert gateway.settled(key) == Money(spent=gateway.billed(key), held=Decimal(0), suspense=Decimal(0))
    assert 0 < gateway.billed(key) <= cap


async def test_a_refusal_tells_which_limit_it_was_what_is_left_and_when_it_resets(gateway: GatewayProcess) -> None:
    key = gateway.create_key("0.05/day")
    answers = await answers_to_a_crowd(gateway, key, MODELS, rounds=4)

    refusals = [answer for answer in answers if answer.status == 402]
    assert refusals
    assert {answer.headers["x-should-retry"] for answer in refusals} == {"false"}
    for error in (answer.fields["error"] for answer in refusals):
        facts = error["metadata"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert (facts["scope"], facts["window"], facts["limit_usd"]) == (f"key:{key.id}", "day", "0.05")
        assert facts["resets_at"] % 86_400 == 0
        left = f"{facts['remaining_usd']} USD" if Decimal(facts["remaining_usd"]) else "nothing"
        assert f", {left} left, " in error["message"]


async def test_callers_who_hang_up_in_mid_stream_pay_for_what_was_billed(gateway: GatewayProcess) -> None:
    cap = CALLERS * ROUNDS * Decimal("0.00012")
    key = gateway.create_key(f"{cap}/lifetime")
    turns = itertools.count()
    statuses = Counter[int]()

    async def act(caller: Caller) -> None:
        for _ in range(ROUNDS):
            turn = next(turns)
            request = chat(
                MODELS[turn % len(MODELS)], f"{PROMPTS[turn % 3]} {turn} [[long 12]]", stream=True, max_tokens=64
            )
            if turn % 3:
                answer = await caller.ask(**request)
                assert answer.body.endswith(b"data: [DONE]\n\n") or falls_short(answer)
                statuses[answer.status] += 1
            else:
                statuses[await caller.walk_out(1 + turn % 9, **request)] += 1

    await crowd(gateway.port, key.text, CALLERS, act)

    assert set(statuses) == {200, 402}
    assert gateway.settled(key) == Money(spent=gateway.billed(key), held=Decimal(0), suspense=Decimal(0))
    assert 0 < gateway.billed(key) <= cap


async def answers_to_a_crowd(
    gateway: GatewayProcess, key: Key, models: tuple[str, ...], rounds: int = ROUNDS
) -> list[Answer]:
    """What is answered to `rounds` requests of each caller, who take turns in models and prompts."""
    answers = []
    turns = itertools.count()

    async def act(caller: Caller) -> None:
        for _ in range(rounds):
            turn = next(turns)
            answers.append(
                await caller.ask(**chat(models[turn % len(models)], PROMPTS[turn // 4 % len(PROMPTS)], max_tokens=128))
            )

    await crowd(gateway.port, key.text, CALLERS, act)
    return answers


def falls_short(refusal: Answer) -> bool:
    """Whether less was left than the request could have cost."""
    facts = refusal.fields["error"]["metadata"]
    return Decimal(facts["remaining_usd"]) < Decimal(facts["needed_usd"])
