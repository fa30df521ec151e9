"""A linear judge and its words."""

import pytest

from routing.classifier import Classifier, reasons, sigmoid, usual
from routing.features import NAMES
from routing.weights import WEIGHTS


def test_the_score_is_the_sum_of_the_evidence_as_a_probability() -> None:
    verdict = Classifier({"has:prove": 2.0, "terse": -1.0}, intercept=-0.5).judge({"has:prove": 1.0, "terse": 1.0})

    assert verdict.evidence == {"has:prove": 2.0, "terse": -1.0}
    assert verdict.score == pytest.approx(sigmoid(0.5))


def test_a_feature_without_a_weight_does_not_count() -> None:
    assert Classifier({}, 0.0).judge({"has:go_on": 1.0}).score == 0.5


def test_reasons_are_strongest_first_and_only_those_of_the_side_asked_for() -> None:
    features = {"has:prove": 1.0, "lead:prove": 1.0, "has:limit": 3**0.5, "terse": 1.0}
    verdict = Classifier({"has:prove": 0.5, "lead:prove": 1.5, "has:limit": 1.0, "terse": -1.0}).judge(features)

    assert reasons(features, verdict, difficult=True) == ("asks for a proof", "three constraints")
    assert reasons(features, verdict, difficult=False) == ("very short",)


def test_one_constraint_is_singular_and_many_are_not_counted() -> None:
    judge = Classifier({"has:limit": 1.0})
    for value, words in ((1.0, "one constraint"), (2.0, "four or more constraints")):
        features = {"has:limit": value}
        assert reasons(features, judge.judge(features), difficult=True) == (words,)


def test_weak_evidence_is_not_spoken_of() -> None:
    features = {"has:prove": 1.0}

    assert reasons(features, Classifier({"has:prove": 0.1}).judge(features), difficult=True) == ()


def test_every_weight_belongs_to_a_feature() -> None:
    assert set(WEIGHTS) <= set(NAMES)


def test_one_usual_kind_of_work_is_named() -> None:
    assert usual({"ordinary_code": 1.0, "school_maths": 1.0}) == ("a usual piece of code",)
    assert usual({"words": 1.0}) == ()


@pytest.mark.parametrize("log_odds", [-1e9, -3.0, 0.0, 3.0, 1e9])
def test_a_probability_stays_between_zero_and_one(log_odds: float) -> None:
    assert 0.0 < sigmoid(log_odds) < 1.0
