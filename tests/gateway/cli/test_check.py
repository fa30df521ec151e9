"""`paymaster check`: what would be served, or every mistake."""

from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Command = Callable[..., Result]

EXAMPLE = Path(__file__).parents[3] / "paymaster.example.yaml"


def test_what_would_be_served_is_shown_with_prices(paymaster: Command) -> None:
    result = paymaster("check", "--config", str(EXAMPLE), OPENAI_API_KEY="sk-secret")

    assert result.exit_code == 0
    assert "0.1 / 0.4, cached 0.01" in result.stdout
    assert "standard: gpt-6-luna (default)" in result.stdout
    assert "sk-secret" not in result.stdout


def test_without_a_file_the_sandbox_is_shown(paymaster: Command) -> None:
    result = paymaster("check")

    assert "no file; found from the environment" in result.stdout
    assert "0 / 0, 0.001 per request" in result.stdout


def test_a_key_of_no_use_yet_is_told(paymaster: Command) -> None:
    told = "ANTHROPIC_API_KEY: this version does not speak to Anthropic yet; the sandbox is served instead"

    assert told in paymaster("check", ANTHROPIC_API_KEY="sk-secret").stdout.splitlines()
    assert "ANTHROPIC" not in paymaster("check", ANTHROPIC_API_KEY="sk-secret", OPENAI_API_KEY="sk-1").stdout


def test_unknown_free_and_stepped_prices_are_told_apart(paymaster: Command, tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text("""\
        providers: {a: {kind: openai, base_url: "http://127.0.0.1:1/v1"}}
        models:
          mine: {provider: a, model: nobody-knows}
          gift: {provider: a, model: x, price: {free: true}}
          long: {provider: a, model: x, price: {input: 1, output: 2, above: {200000: {input: 2}}}}
    """)

    shown = paymaster("check").stdout
    assert "unknown: refused for keys with a limit; give a price" in shown
    assert "free" in shown
    assert "1 / 2, dearer when long" in shown


def test_every_mistake_is_told_with_its_line(paymaster: Command, tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text("sever: {}\nmodels:\n  small: {provider: a, model: x, prise: 1}\n")

    result = paymaster("check")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "paymaster.yaml:1: sever: no such field; did you mean 'server'?",
        "paymaster.yaml:3: models.small.prise: no such field; did you mean 'price'?",
    ]


def test_a_file_that_is_not_there_is_told(paymaster: Command) -> None:
    result = paymaster("check", "--config", "none.yaml")

    assert result.exit_code == 1
    assert result.stderr.strip() == "none.yaml: cannot be read: No such file or directory"
