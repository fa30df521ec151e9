"""A promise is kept where something was seen and nothing was wrong."""

from gateway.chaos.outcome import MOST_VIOLATIONS, Outcome


def test_a_promise_is_kept_until_something_violates_it() -> None:
    outcome = Outcome("P1", "Nothing is lost.")
    outcome.expect(True, "lost")

    assert outcome.kept
    outcome.expect(False, "something was lost")
    assert (outcome.kept, outcome.violations) == (False, ["something was lost"])


def test_all_violations_are_counted_and_the_first_are_told() -> None:
    outcome = Outcome("P1", "Nothing is lost.")
    outcome.violate(*map(str, range(15)))
    outcome.violate(*map(str, range(15, 30)))

    assert (outcome.violated, len(outcome.violations)) == (30, MOST_VIOLATIONS)
