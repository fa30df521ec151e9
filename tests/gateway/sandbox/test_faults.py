import re
from pathlib import Path
from typing import Any

import pytest

import gateway.sandbox.faults
from gateway.sandbox.errors import Refused
from gateway.sandbox.faults import NO_FAULT, Fault, Faults, directives_removed

MODEL = "sandbox-small"


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("tell me a story", Fault()),
        ("[[fail 503]] story", Fault(status=503)),
        ("story [[ fail 429 retry-after=2 ]]", Fault(status=429, retry_after="2")),
        ("[[cut 3]]", Fault(breaks="cut", breaks_after=3)),
        ("[[half 3]]", Fault(breaks="half", breaks_after=3)),
        ("[[reset 0]]", Fault(breaks="reset")),
        ("[[truncate 3]]", Fault(breaks="truncate", breaks_after=3)),
        ("[[stall]]", Fault(stall=3600.0)),
        ("[[stall 2.5s]]", Fault(stall=2.5)),
        ("[[stall 5 after=3]]", Fault(stall=5.0, stall_after=3)),
        ("[[slow 50ms]]", Fault(pace=0.05)),
        ("[[no-usage]]", Fault(usage="none")),
        ("[[double-usage]]", Fault(usage_twice=True)),
        ("[[absurd-usage]]", Fault(usage="huge")),
        ("[[absurd-usage negative]]", Fault(usage="negative")),
        ("[[long 400]] [[bill nothing]]", Fault(length=400, policy="nothing")),
        ("see [[the wiki]] and [[Fail 503]]", Fault()),
    ],
)
def test_directives_in_the_prompt_set_the_fault(prompt: str, fault: Fault) -> None:
    assert Faults().take(MODEL, prompt) == fault


@pytest.mark.parametrize(
    "directive",
    [
        "fail",
        "fail 200",
        "fail x",
        "fail 503 504",
        "fail 429 retry-after=soon",
        "cut",
        "cut -1",
        "stall x",
        "stall 1 after=x",
        "slow",
        "slow fast",
        "no-usage please",
        "absurd-usage odd",
        "long",
        "long 9999999",
        "bill twice",
        "first",
        "first fail 500",
        "first 2",
        "first 2 dance",
    ],
)
def test_a_directive_that_makes_no_sense_is_refused_and_named(directive: str) -> None:
    with pytest.raises(Refused) as refusal:
        Faults().take(MODEL, f"[[{directive}]]")

    assert refusal.value.status == 400
    assert refusal.value.param in directive


def test_the_first_attempts_of_a_prompt_fail_and_then_it_starts_anew() -> None:
    faults = Faults()

    statuses = [faults.take(MODEL, "[[first 2 fail 500]] hello").status for _ in range(5)]
    assert statuses == [500, 500, None, 500, 500]


def test_prompts_are_counted_apart() -> None:
    faults = Faults()
    faults.take(MODEL, "[[first 1 fail 500]] hello")

    assert faults.take(MODEL, "[[first 1 fail 500]] goodbye").status == 500


def test_several_counted_faults_come_one_after_the_other() -> None:
    faults = Faults()
    prompt = "[[first 2 fail 500]] [[first 1 fail 429]]"

    assert [faults.take(MODEL, prompt).status for _ in range(3)] == [429, 500, None]


def test_only_so_many_prompts_are_counted() -> None:
    faults = Faults()
    for number in range(10_001):
        faults.take(MODEL, f"[[first 1 fail 500]] {number}")

    assert faults.take(MODEL, "[[first 1 fail 500]] 0").status == 500
    assert faults.take(MODEL, "[[first 1 fail 500]] 10000").status is None


def test_a_script_is_good_for_its_model_and_its_times() -> None:
    faults = Faults()
    faults.add({"model": MODEL, "fail": 503, "times": 2})

    taken = [faults.take(model, "hello").status for model in ("exact", MODEL, MODEL, MODEL)]
    assert taken == [None, 503, 503, None]


def test_a_script_without_model_and_times_is_good_for_one_attempt_of_any() -> None:
    faults = Faults()
    faults.add({"fail": "429 retry-after=2", "no-usage": True})

    assert faults.take("exact", "hello") == Fault(status=429, retry_after="2", usage="none")
    assert faults.take("exact", "hello") == NO_FAULT


def test_what_the_prompt_says_goes_before_the_script() -> None:
    faults = Faults()
    faults.add({"fail": 503, "slow": "50ms"})

    assert faults.take(MODEL, "[[fail 500]]") == Fault(status=500, pace=0.05)


def test_scripts_and_counts_can_be_forgotten() -> None:
    faults = Faults()
    faults.add({"fail": 503})
    faults.take("exact", "[[first 1 no-usage]]")
    faults.add({"fail": 503})
    faults.clear()

    assert faults.take("exact", "[[first 1 no-usage]]") == Fault(usage="none")


@pytest.mark.parametrize(
    "script",
    [{"model": "gpt-5"}, {"model": []}, {"times": 0}, {"times": True}, {"times": "2"}, {"dance": True}, {"fail": None}],
)
def test_a_script_that_makes_no_sense_is_refused(script: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refusal:
        Faults().add(script)

    assert refusal.value.status == 400


def test_directives_are_taken_out_of_what_is_quoted() -> None:
    assert directives_removed("[[fail 503]] Hello [[cut 3]]") == "Hello"
    assert directives_removed("see [[the wiki]]") == "see [[the wiki]]"


def test_every_fault_is_in_both_manuals() -> None:
    names = set(re.findall(r'^    "([a-z-]+)": _', Path(gateway.sandbox.faults.__file__).read_text(), re.MULTILINE))
    manual = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text()

    assert {"fail", "cut", "bill"} < names
    assert [name for name in names if f"[[{name}" not in gateway.sandbox.faults.__doc__] == []
    assert [name for name in names if f"[[{name}" not in manual] == []
