import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bank import Bank, open_bank
from fakes import COST, DONE, Ending, broken_stream, delta, usage_event
from running import Running, ledger_server, running

from budgets import redis_layout
from budgets.budget import parse_limit
from budgets.errors import LedgerUnavailable, StaleKey
from budgets.keys import KeyRecord
from gateway.auth import MAX_KEY_BYTES, OUTAGE, Caller, Callers, key_in
from gateway.errors import KeyNotUsable, NoKey, SeveralKeys, UnknownKey

KEY = b"sk-pm-default-" + b"x" * 43
HOLD_FOR = 2.0


# Where a key may stand


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY},
        {b"authorization": b"bearer   " + KEY + b" "},
        {b"x-api-key": KEY},
        {b"api-key": b" " + KEY},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": KEY, b"api-key": KEY},
        {b"authorization": b"Basic dXNlcjpwYXNz", b"api-key": KEY},
        {b"authorization": b"Bearer ", b"x-api-key": KEY},
    ],
)
def test_a_key_is_found_in_each_of_its_places(headers: dict[bytes, bytes]) -> None:
    assert key_in(headers) == KEY.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": KEY},
        {b"authorization": b"Basic " + KEY},
        {b"x-api-key": b"  "},
        {b"cookie": b"api-key=" + KEY},
    ],
)
def test_without_a_key_there_is_none(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(NoKey):
        key_in(headers)


@pytest.mark.parametrize("place", [b"x-api-key", b"api-key"])
def test_two_different_keys_are_refused(place: bytes) -> None:
    with pytest.raises(SeveralKeys):
        key_in({b"authorization": b"Bearer " + KEY, place: b"another"})


@pytest.mark.parametrize("key", [b"x" * (MAX_KEY_BYTES + 1), "schlüssel".encode(), b"\xff\xfe"])
def test_what_cannot_be_a_key_is_unknown(key: bytes) -> None:
    with pytest.raises(UnknownKey):
        key_in({b"x-api-key": key})


# Who it belongs to


@dataclass
class Clock:
    """Redis keeps its own time, so this one starts there."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass
class Gate:
    """The callers of one worker, over the bank's ledger."""

    bank: Bank
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.callers = Callers(self.bank.keys, self.bank.connection, self.bank.ledger, HOLD_FOR, self.clock)

    async def new_key(self, *limits: str, expires_at: float | None = None) -> tuple[KeyRecord, str]:
        parsed = [parse_limit(limit) for limit in limits]
        return await self.bank.keys.create("a key", limits=parsed, expires_at=expires_at)

    async def identify(self, text: str) -> Caller:
        return await self.callers.identify({b"x-api-key": text.encode()})

    async def reads(self) -> int:
        """How many times a key was looked up in Redis."""
        stats = await self.bank.redis.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))


@pytest.fixture
async def gate(redis_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        yield Gate(bank)


async def test_a_caller_is_known_by_the_keys_text(gate: Gate) -> None:
    record, text = await gate.new_key("5/day")

    caller = await gate.identify(text)

    assert (caller.record, caller.version, caller.capped) == (record, 1, True)
    assert gate.bank.ledger.remaining(record.id) == 5 * 10**9
    assert caller.scopes == ("account", f"key:{record.id}")


async def test_a_caller_without_a_limit_is_not_capped_unless_the_account_is(gate: Gate) -> None:
    _, text = await gate.new_key()
    assert not (await gate.identify(text)).capped

    await gate.bank.keys.set_account_limits("default", [parse_limit("1/day")])
    gate.clock.now += HOLD_FOR + 1

    caller = await gate.identify(text)
    assert (caller.capped, gate.bank.ledger.remaining(caller.record.id)) == (True, 10**9)


async def test_a_key_with_a_limit_is_capped_although_redis_has_lost_where_it_counts(gate: Gate) -> None:
    record, text = await gate.new_key("5/day")
    await gate.bank.redis.delete(redis_layout.scope("default", f"key:{record.id}"))

    assert (await gate.identify(text)).capped


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text + "x", lambda text: text.swapcase()])
async def test_a_text_that_is_nearly_a_key_is_unknown(gate: Gate, change: object) -> None:
    _, text = await gate.new_key()
    await gate.identify(text)

    with pytest.raises(UnknownKey):
        await gate.identify(change(text))  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["{x}", "*", "sk-pm-{default}-x", "sk-pm-default-*", "a b", "' OR 1=1 --", "pm:{default}:keys"]
)
async def test_a_text_that_means_something_elsewhere_is_unknown(gate: Gate, text: str) -> None:
    with pytest.raises(UnknownKey):
        await gate.identify(text)


async def test_an_expired_key_is_refused_from_that_moment(gate: Gate) -> None:
    _, text = await gate.new_key(expires_at=gate.clock.now + 1)
    await gate.identify(text)

    gate.clock.now += 1

    with pytest.raises(KeyNotUsable) as caught:
        await gate.identify(text)
    assert caught.value.why == "expired"


async def test_an_unblocked_key_works_at_once(gate: Gate) -> None:
    record, text = await gate.new_key()
    await gate.bank.keys.update(record.id, {"blocked": True})
    with pytest.raises(KeyNotUsable):
        await gate.identify(text)

    await gate.bank.keys.update(record.id, {"blocked": False})

    assert (await gate.identify(text)).record.id == record.id


async def test_a_record_is_read_once_and_held_for_a_while(gate: Gate) -> None:
    _, text = await gate.new_key()
    before = await gate.reads()

    for _ in range(5):
        await gate.identify(text)
    assert await gate.reads() == before + 1

    gate.clock.now += HOLD_FOR + 1
    await gate.identify(text)
    assert await gate.reads() == before + 2


async def test_a_key_that_is_unknown_is_not_looked_up_each_time(gate: Gate) -> None:
    before = await gate.reads()

    for _ in range(5):
        with pytest.raises(UnknownKey):
            await gate.identify("sk-unknown")

    assert await gate.reads() == before + 1


async def test_many_requests_at_once_read_a_key_once(gate: Gate) -> None:
    _, text = await gate.new_key()
    before = await gate.reads()

    callers = await asyncio.gather(*(gate.identify(text) for _ in range(50)))

    assert len({id(caller) for caller in callers}) == 1
    assert await gate.reads() == before + 1


async def test_who_gives_up_waiting_does_not_take_the_answer_from_the_others(gate: Gate) -> None:
    _, text = await gate.new_key()
    first, second = asyncio.create_task(gate.identify(text)), asyncio.create_task(gate.identify(text))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).record.name == "a key"


async def test_a_few_keys_are_forgotten_when_there_are_too_many(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.MAX_CACHED_KEYS", 2)
    texts = [(await gate.new_key())[1] for _ in range(3)]
    for text in texts:
        await gate.identify(text)
    before = await gate.reads()

    await gate.identify(texts[2])
    assert await gate.reads() == before
    await gate.identify(texts[0])
    assert await gate.reads() == before + 1


# Keys that changed, as the reserve script tells


async def test_a_changed_record_takes_the_old_ones_place(gate: Gate) -> None:
    record, text = await gate.new_key()
    caller = await gate.identify(text)
    changed = await gate.bank.keys.update(record.id, {"limits": (parse_limit("1/day"),), "models": ("small",)})

    fresh = gate.callers.refreshed(caller, StaleKey(changed.to_json().decode(), 2))

    assert (fresh.record, fresh.version, fresh.capped) == (changed, 2, True)
    assert (await gate.identify(text)).version == 2


async def test_a_blocked_or_deleted_key_is_refused_when_it_is_noticed(gate: Gate) -> None:
    record, text = await gate.new_key()
    caller = await gate.identify(text)
    blocked = await gate.bank.keys.update(record.id, {"blocked": True})

    with pytest.raises(KeyNotUsable):
        gate.callers.refreshed(caller, StaleKey(blocked.to_json().decode(), 2))
    with pytest.raises(UnknownKey):
        gate.callers.refreshed(caller, StaleKey(None, 0))
    with pytest.raises(KeyNotUsable):
        await gate.identify(text)


@pytest.mark.parametrize(
    ("globs", "may", "may_not"),
    [
        (["*"], ["a", "b/c", "auto"], []),
        (["gpt-*"], ["gpt-6", "gpt-"], ["GPT-6", "agpt-6", "auto"]),
        (["auto", "small"], ["auto", "small"], ["smaller", "large", ""]),
        (["[x]"], ["x"], ["[x]"]),
    ],
)
async def test_models_are_allowed_by_globs(gate: Gate, globs: list[str], may: list[str], may_not: list[str]) -> None:
    _, text = await gate.bank.keys.create("a key", models=globs)

    caller = await gate.identify(text)

    assert [model for model in may + may_not if caller.may_use(model)] == may


# While the ledger is away


async def test_while_the_ledger_is_away_a_key_serves_as_it_was_last_read(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with open_bank(ledger.url, tmp_path, running=False) as bank:
            gate = Gate(bank)
            _, text = await gate.new_key()
            await gate.identify(text)

            ledger.kill()
            gate.clock.now += OUTAGE
            assert (await gate.identify(text)).record.name == "a key"
            with pytest.raises(LedgerUnavailable):
                await gate.identify("another")

            gate.clock.now += HOLD_FOR + 1
            with pytest.raises(LedgerUnavailable):
                await gate.identify(text)


# The same through a whole gateway


@pytest.fixture
async def gateway(redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(redis_url, tmp_path) as gateway:
        yield gateway


async def test_a_key_that_is_blocked_is_refused_at_once(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    assert (await gateway.chat(key)).status_code == 200

    await gateway.admin("POST", f"/keys/{key.id}/block")
    refused = await gateway.chat(key)
    await gateway.admin("POST", f"/keys/{key.id}/unblock")

    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_not_usable")
    assert (await gateway.chat(key)).status_code == 200


async def test_a_key_that_is_deleted_is_refused_at_once(gateway: Running) -> None:
    key = await gateway.create_key()
    assert (await gateway.chat(key)).status_code == 200

    await gateway.admin("DELETE", f"/keys/{key.id}")

    refused = await gateway.chat(key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_changed_limit_counts_at_once(gateway: Running) -> None:
    key = await gateway.create_key()
    assert (await gateway.chat(key)).status_code == 200

    await gateway.admin("PATCH", f"/keys/{key.id}", {"limits": [{"usd": "0.000001", "window": "lifetime"}]})
    refused = await gateway.chat(key)
    await gateway.admin("PATCH", f"/keys/{key.id}", {"limits": []})

    assert refused.status_code == 402
    assert (await gateway.chat(key)).status_code == 200


async def test_a_model_taken_from_a_key_is_refused_at_once(gateway: Running) -> None:
    key = await gateway.create_key()
    assert (await gateway.chat(key)).status_code == 200

    await gateway.admin("PATCH", f"/keys/{key.id}", {"models": ["large"]})

    assert (await gateway.chat(key)).status_code == 403
    assert await gateway.spent(key) == COST


async def test_a_stream_that_runs_goes_on_when_its_key_is_blocked(gateway: Running) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will(broken_stream(delta("a"), go_on, delta(finish="stop"), usage_event(), DONE, Ending.CLOSE))
    key = await gateway.create_key("1/lifetime")

    running_chat = asyncio.create_task(gateway.chat(key, stream=True))
    await gateway.upstream.was_asked.wait()
    await gateway.admin("POST", f"/keys/{key.id}/block")
    go_on.set()
    await asyncio.wait([running_chat])

    assert await gateway.spent(key) == COST
