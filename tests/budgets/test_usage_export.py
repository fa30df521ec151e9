import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.money import MAX_NANO
from budgets.usage import Usage
from budgets.usage_export import Billed, Export, read_export

ONE, TWO = "att_default_0123456789ab000001", "att_team7_0123456789ab000002"


def read(text: str) -> Export:
    return read_export(text.encode().splitlines(keepends=True))


def read_rows(*rows: dict[str, Any]) -> Export:
    return read("".join(f"{json.dumps(row)}\n" for row in rows))


def only(export: Export) -> Billed:
    (billed,) = export.attempts.values()
    return billed


def refused(text: str) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        read(text)
    return str(error.value)


# Whose it is


@pytest.mark.parametrize(
    "column",
    ["attempt", "attempt_id", "Attempt ID", "client_request_id", "X-Client-Request-Id", "request_id", "custom_id"],
)
def test_an_attempt_is_found_by_whatever_its_column_is_called(column: str) -> None:
    billed = only(read(f"{column},cost_usd\n{ONE},0.01\n"))

    assert (billed.attempt_id, billed.account, billed.nano_usd) == (ONE, "default", 10_000_000)


def test_the_column_that_holds_our_id_counts_among_several() -> None:
    export = read(f"request_id,client_request_id,nano_usd\nreq_abc,{ONE},7\n{TWO},,8\n")

    assert {id_: billed.nano_usd for id_, billed in export.attempts.items()} == {ONE: 7, TWO: 8}
    assert export.attempts[TWO].account == "team7"


@pytest.mark.parametrize("name", ["req_1", "", "att_", "att_Team_1", "att_a_", "x" + ONE, ONE + "\n\x00", "att_{a}_1"])
def test_a_row_that_is_not_ours_is_counted_and_not_read(name: str) -> None:
    export = read_rows({"request_id": name, "cost": "a refund"}, {"request_id": None, "cost": -1})

    assert (export.attempts, export.rows, export.foreign_rows) == ({}, 2, 2)


def test_a_file_in_which_no_column_names_attempts_is_refused() -> None:
    words = "no column names attempts, such as `client_request_id` or `attempt_id`; there are 'day', 'cost'"

    assert refused("day,cost\nmonday,5\n") == words
    assert refused('[{"day": "monday", "cost": 5}]') == words
    assert refused("day,cost\n") == words
    assert refused("<html>busy</html>").startswith("no column names attempts")


def test_an_export_may_be_empty_and_says_whether_it_says_so() -> None:
    blank, empty, header, page = (
        read("\n"),
        read("[]"),
        read("attempt_id,cost\n"),
        read('{"data": [], "has_more": true}'),
    )

    assert [export.attempts for export in (blank, empty, header, page)] == [{}] * 4
    assert [export.is_blank for export in (blank, empty, header, page)] == [True, False, False, False]
    assert [export.has_more for export in (blank, empty, header, page)] == [False, False, False, True]


def test_the_sandbox_s_own_bill_is_such_an_export() -> None:
    line = '{"attempt":"%s","key":"k","model":"exact","input_tokens":5,"output_tokens":2,"nano_usd":1000000}\n'

    assert only(read(line % ONE)).nano_usd == 1_000_000


# How much


@pytest.mark.parametrize(
    ("columns", "nano"),
    [
        ({"nano_usd": 7}, 7),
        ({"nano_usd": "7"}, 7),
        ({"nano_usd": 7, "cost_usd": "5"}, 7),
        ({"nano_usd": "", "cost_usd": "5"}, 5_000_000_000),
        ({"cost_usd": "0.0000031"}, 3_100),
        ({"usd": 0.0000031}, 3_100),
        ({"Cost (USD)": "3.1e-6"}, 3_100),
        ({"amount": {"value": 0.01, "currency": "usd"}}, 10_000_000),
        ({"cost": 0.01, "currency": "USD"}, 10_000_000),
        ({"cost": "0"}, 0),
        ({"cost": "0.0000000001"}, 1),
        ({"cost": "0.0000031000000001"}, 3_101),
        ({"cost": 0.0000030999999999999997}, 3_100),
        ({"cost": 0.00000310000000000000004}, 3_100),
        ({"cost_usd": "0.01", "amount": "99"}, 10_000_000),
        ({"cost": "0.01", "amount": "0.010"}, 10_000_000),
        ({"cost": "9007199.254740991"}, MAX_NANO),
        ({"cost": "9007199.254740991000"}, MAX_NANO),
    ],
)
def test_money_is_taken_as_it_is_written_and_rounded_up_once(columns: dict[str, Any], nano: int) -> None:
    assert only(read_rows({"attempt": ONE, **columns})).nano_usd == nano


NO_DOLLARS: tuple[Any, ...] = (-1, "-1", "NaN", "1e30", 1e30, "1e-999", True, "ten", "1,5", "1_0", "$1", "٣", [], "1/3")
NO_NANO: tuple[Any, ...] = (-1, "0.5", 0.5, True, MAX_NANO + 1, "1e30", "Infinity")
NO_TOKENS: tuple[Any, ...] = (-1, 1.5, True, 10**9 + 1, "many")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("cost", value) for value in NO_DOLLARS),
        *(("nano_usd", value) for value in NO_NANO),
        *(("input_tokens", value) for value in NO_TOKENS),
    ],
)
def test_a_number_that_cannot_be_condemns_the_file_by_line_and_column(column: str, value: Any) -> None:
    rows = [{"attempt": TWO, column: 1, "output_tokens": 1}, {"attempt": ONE, column: value, "output_tokens": 1}]

    words = refused("".join(f"{json.dumps(row)}\n" for row in rows))

    assert words.startswith(f"line 2, column {column!r}: ")
    assert " from 0 to " in words


def test_nan_as_python_writes_it_is_refused_too() -> None:
    assert refused(f'{{"attempt": "{ONE}", "cost": NaN}}\n').startswith("line 1, column 'cost': 'NaN' is not an amount")


def test_columns_that_disagree_condemn_the_file() -> None:
    assert (
        refused(f"attempt,cost,amount\n{ONE},1,2\n") == "line 2: the columns 'cost' and 'amount' say different things"
    )


def test_other_currencies_are_refused() -> None:
    assert refused(f"attempt,cost,currency\n{ONE},1,EUR\n") == "line 2, column 'currency': 'EUR' are no US dollars"


def test_a_row_without_any_amount_is_an_attempt_that_needs_one() -> None:
    billed = only(read(f"attempt,cost\n{ONE},\n"))

    assert (billed.nano_usd, billed.usage) == (None, None)


# Tokens


@pytest.mark.parametrize(
    ("columns", "usage"),
    [
        ({"input_tokens": 5, "output_tokens": 2}, Usage(5, 2)),
        ({"prompt_tokens": "5", "completion_tokens": "2.0"}, Usage(5, 2)),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, Usage(5, 2)),
        (
            {
                "usage": {
                    "prompt_tokens": 5,
                    "completion_tokens": 4,
                    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 1},
                    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1},
                },
                "service_tier": "flex",
            },
            Usage(5, 4, 3, 0, 0, 1, 2, 1, "flex"),
        ),
        (
            {"input_tokens": 5, "cached_input_tokens": 3, "output_tokens": 2, "reasoning_tokens": 1},
            Usage(5, 2, 3, 0, 0, 0, 1),
        ),
        ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 0}, Usage(5, 2)),
    ],
)
def test_tokens_are_read_where_no_dollars_are_told(columns: dict[str, Any], usage: Usage) -> None:
    billed = only(read_rows({"attempt": ONE, **columns}))

    assert (billed.nano_usd, billed.usage) == (None, usage)


@pytest.mark.parametrize(
    "columns",
    [
        {"input_tokens": 5},
        {"output_tokens": 5},
        {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 3},
        {"input_tokens": 5, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 3}},
        {"uncached_input_tokens": 5, "output_tokens": 2},
    ],
)
def test_tokens_that_nobody_could_price_for_certain_are_left_alone(columns: dict[str, Any]) -> None:
    assert only(read_rows({"attempt": ONE, **columns})).usage is None


def test_a_part_above_its_total_condemns_the_file() -> None:
    words = refused(f"attempt,input_tokens,output_tokens,cached_tokens\n{ONE},5,2,6\n")

    assert words == "line 2: cache_read_input_tokens cannot be 6, which is more than the total"


# Several rows


def test_all_rows_of_an_attempt_are_added_up_before_rounding() -> None:
    billed = only(read(f"attempt,usd\n{ONE},0.0000000004\n{ONE},0.0000000004\n{ONE},0.0000000002\n"))

    assert (billed.nano_usd, billed.rows) == (1, 3)


def test_tokens_of_several_rows_are_not_added_up_for_each_was_priced_by_itself() -> None:
    billed = only(read(f"attempt,input_tokens,output_tokens\n{ONE},5,2\n{ONE},5,2\n"))

    assert (billed.nano_usd, billed.usage, billed.rows) == (None, None, 2)


def test_an_attempt_of_which_one_row_has_no_dollars_needs_a_cost() -> None:
    assert only(read(f"attempt,usd\n{ONE},1\n{ONE},\n{ONE},1\n")).nano_usd is None


def test_rows_that_come_to_more_than_can_be_counted_are_refused() -> None:
    words = refused(f"attempt,usd\n{ONE},9007199\n{ONE},1\n")

    assert words == f"line 3: the rows of {ONE} come to more than 9007199.254740991 dollars"


@given(st.lists(st.decimals(0, 1_000, places=15).map(lambda usd: round(usd, 14)), min_size=1, max_size=20))
def test_any_sum_is_exact(amounts: list[Decimal]) -> None:
    short = [Decimal(f"{usd:.11f}") for usd in amounts]

    billed = only(read_rows(*({"attempt": ONE, "usd": str(usd)} for usd in short)))

    total = sum(int(usd.scaleb(11)) for usd in short)
    assert billed.nano_usd == -(-total // 100)
