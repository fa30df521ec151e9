"""Fits the weights of `routing.classifier` and says how good they are.

    python -m routing.training.fit            # the figures
    python -m routing.training.fit --write    # makes routing/weights.py

A logistic regression with an L2 penalty, by Newton's method. Figures are for prompts that the fit has not seen: with
whole kinds of task left out in turn (`prompts.csv`, `anchors.csv`), and on held-out files, never tuned on.
"""

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from routing.classifier import Classifier, sigmoid
from routing.features import NAMES, FeatureReader, counted
from routing.task import TaskText, complexity_of, profile

HERE = Path(__file__).parent
HELD_OUT = ("held_out.csv", "held_out_plain.csv", "held_out_logs.csv")
"""In other styles than the training prompts: as people talk, as people type into a form, as a log would show them."""
PENALTY = 2.0
TARGETS = {"simple": 0.03, "standard": 0.42, "reasoning": 0.97}
ANCHORS = ((0.0, "simple"), (0.2, "simple"), (0.75, "reasoning"), (1.0, "reasoning"))
"""By the anchors' tier: the target and the label."""

Row = list[tuple[int, float]]
_INDEX = {name: index for index, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Example:
    """A labelled prompt with its features."""

    prompt: str
    kind: str
    label: str
    target: float
    features: dict[str, float]

    @property
    def row(self) -> Row:
        """The features by index, the constant last."""
        known = [(_INDEX[name], value) for name, value in counted(self.features).items() if name in _INDEX]
        return [*known, (len(NAMES), 1.0)]


def examples(name: str) -> list[Example]:
    """The prompts of one file of this folder."""
    reader = FeatureReader()
    found = []
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if "tier" in line:
                target, label = ANCHORS[int(line["tier"])]
            else:
                target, label = TARGETS[line["label"]], line["label"]
            found.append(Example(line["prompt"], line["kind"], label, target, reader.read(line["prompt"])))
    return found


def fit(training: Sequence[Example], penalty: float = PENALTY) -> list[float]:
    """The weights by feature index, the constant last."""
    size = len(NAMES) + 1
    rows = [(example.row, example.target) for example in training]
    weights = [0.0] * size
    for _ in range(7):
        gradient = [penalty * weight for weight in weights[:-1]] + [0.0]
        curvature = [[0.0] * size for _ in range(size)]
        for index in range(size):
            curvature[index][index] = penalty if index < size - 1 else 1e-6
        for row, target in rows:
            _add(row, target, weights, gradient, curvature)
        weights = [weight - step for weight, step in zip(weights, _solve(curvature, gradient), strict=True)]
    return weights


def _add(row: Row, target: float, weights: list[float], gradient: list[float], curvature: list[list[float]]) -> None:
    """Add one example to the gradient and to the lower triangle of the curvature."""
    guess = sigmoid(sum(weights[index] * value for index, value in row))
    for index, value in row:
        gradient[index] += (guess - target) * value
        for other, factor in row:
            if other <= index:
                curvature[index][other] += guess * (1.0 - guess) * value * factor


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system, given its lower triangle, by Cholesky's decomposition."""
    size = len(right)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(a * b for a, b in zip(lower[i][:j], lower[j][:j], strict=True))
            lower[i][j] = sqrt(rest) if i == j else rest / lower[j][j]
    half: list[float] = []
    for i in range(size):
        half.append((right[i] - sum(a * b for a, b in zip(lower[i][:i], half, strict=True))) / lower[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        solution[i] = (half[i] - sum(lower[j][i] * solution[j] for j in range(i + 1, size))) / lower[i][i]
    return solution


def classifier(weights: Sequence[float]) -> Classifier:
    """A classifier with fitted weights."""
    return Classifier(dict(zip(NAMES, weights, strict=False)), weights[-1])


def left_out(training: Sequence[Example]) -> list[tuple[float, str]]:
    """Score and label of every example, by weights fitted without its kind of task."""
    scored = []
    for kind in sorted({example.kind for example in training}):
        judge = classifier(fit([example for example in training if example.kind != kind]))
        scored += [(judge.judge(e.features).score, e.label) for e in training if e.kind == kind]
    return scored


def figures(name: str, scored: Sequence[tuple[float, str]], classes: Iterable[str] | None = None) -> str:
    """One line: how well simple and reasoning are told apart, and how many of the three classes are met."""
    verdicts = list(zip(classes or [complexity_of(score) for score, _ in scored], scored, strict=True))
    hit = sum(verdict == label for verdict, (_, label) in verdicts) / len(verdicts)
    simple = [verdict for verdict, (_, label) in verdicts if label == "simple"]
    hard = [verdict for verdict, (_, label) in verdicts if label == "reasoning"]
    return (
        f"{name}: {len(scored)} prompts; AUC simple/reasoning {auc(scored):.3f}; three classes right {hit:.0%}; "
        f"simple sent to reasoning {simple.count('reasoning')}/{len(simple)}; "
        f"reasoning found {hard.count('reasoning')}/{len(hard)}, taken for simple {hard.count('simple')}\n"
    )


def auc(scored: Sequence[tuple[float, str]]) -> float:
    """The chance that a reasoning prompt scores above a simple one."""
    hard = [score for score, label in scored if label == "reasoning"]
    simple = [score for score, label in scored if label == "simple"]
    wins = sum((high > low) + 0.5 * (high == low) for high in hard for low in simple)
    return wins / (len(hard) * len(simple))


def table(weights: Sequence[float]) -> str:
    """`routing/weights.py` as text."""
    lines = [
        f'    "{name}": {weight:.3f},\n' for name, weight in zip(NAMES, weights, strict=False) if abs(weight) >= 0.01
    ]
    return (
        '"""The weights, log-odds by feature. Made by `python -m routing.training.fit --write`; not edited."""\n\n'
        "from collections.abc import Mapping\nfrom types import MappingProxyType\n\n"
        f"INTERCEPT = {weights[-1]:.3f}\n\n"
        "WEIGHTS: Mapping[str, float] = MappingProxyType(\n    {\n"
        + "".join(f"    {line}" for line in lines)
        + "    }\n)\n"
    )


def shipped(name: str) -> str:
    """The figures of a file under the weights in `routing/weights.py`, with everything `profile` does besides."""
    held_out = examples(name)
    judged = [profile(TaskText(example.prompt)) for example in held_out]
    scored = [(judgement.score, example.label) for judgement, example in zip(judged, held_out, strict=True)]
    return figures(f"{name}, as shipped", scored, [judgement.complexity for judgement in judged])


def main(write: bool) -> None:
    """Print the figures, or write the table."""
    training = [*examples("prompts.csv"), *examples("anchors.csv")]
    weights = fit(training)
    if write:
        (HERE.parent / "weights.py").write_text(table(weights), encoding="utf-8")
        return
    judge = classifier(weights)
    sys.stdout.write(figures("fitted on", [(judge.judge(e.features).score, e.label) for e in training]))
    sys.stdout.write(figures("kind of task left out", left_out(training)))
    for name in HELD_OUT:
        sys.stdout.write(shipped(name))
    for name in ("prompts.csv", "anchors.csv", *HELD_OUT):
        by_length = [(float(len(example.prompt)), example.label) for example in examples(name)]
        sys.stdout.write(f"{name}, by length alone: AUC {auc(by_length):.3f}\n")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
