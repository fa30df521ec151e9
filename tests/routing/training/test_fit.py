"""The weights in the repository are those the fit makes, and they are good for something."""

import pytest

from routing.features import NAMES
from routing.training.fit import HELD_OUT, auc, classifier, examples, figures, fit, table
from routing.weights import INTERCEPT, WEIGHTS


def test_the_weights_are_what_the_fit_makes_of_the_prompts() -> None:
    weights = fit([*examples("prompts.csv"), *examples("anchors.csv")])
    made: dict[str, object] = {}
    exec(table(weights), made)

    assert made["INTERCEPT"] == pytest.approx(INTERCEPT, abs=0.002)
    assert made["WEIGHTS"] == pytest.approx(dict(WEIGHTS), abs=0.002)


@pytest.mark.parametrize("name", HELD_OUT)
def test_prompts_never_fitted_are_told_apart(name: str) -> None:
    judge = classifier([*(WEIGHTS.get(feature, 0.0) for feature in NAMES), INTERCEPT])
    held_out = examples(name)
    scored = [(judge.judge(example.features).score, example.label) for example in held_out]
    by_length = [(float(len(example.prompt)), example.label) for example in held_out]

    assert auc(scored) > 0.95
    assert auc(scored) > auc(by_length) + 0.1


def test_no_held_out_prompt_is_fitted() -> None:
    fitted = {example.prompt for name in ("prompts.csv", "anchors.csv") for example in examples(name)}

    assert fitted.isdisjoint(example.prompt for name in HELD_OUT for example in examples(name))


def test_figures_are_counted_right() -> None:
    line = figures("four", [(0.1, "simple"), (0.9, "simple"), (0.8, "reasoning"), (0.2, "reasoning")])

    assert line == (
        "four: 4 prompts; AUC simple/reasoning 0.500; three classes right 50%; simple sent to reasoning 1/2; "
        "reasoning found 1/2, taken for simple 1\n"
    )
