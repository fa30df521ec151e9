"""The command line as a whole: help, mistakes, and what a start costs."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

from gateway import __version__
from gateway.cli.app import COMMANDS

Command = Callable[..., Result]


def test_help_lists_every_command(paymaster: Command) -> None:
    result = paymaster("--help")

    assert result.exit_code == 0
    assert all(name in result.stdout and line in result.stdout for name, line in COMMANDS.items())


def test_the_version_is_told(paymaster: Command) -> None:
    assert paymaster("--version").stdout.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_its_own(paymaster: Command, command: str) -> None:
    result = paymaster(command, "--help")

    assert result.exit_code == 0
    assert f"paymaster {command}" in result.stdout


def test_a_mistyped_command_is_told_with_the_nearest_one(paymaster: Command) -> None:
    result = paymaster("serv")

    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.stderr


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("gateway.cli.app", "httpx pydantic fastapi rich.table yaml uvicorn redis"),
        ("gateway.cli.keys", "pydantic fastapi uvicorn redis"),
        ("gateway.cli.budgets", "pydantic fastapi uvicorn redis"),
        ("gateway.cli.reconcile", "pydantic fastapi uvicorn redis"),
        ("gateway.cli.serve", "httpx fastapi rich.table tiktoken litellm"),
    ],
)
def test_a_command_imports_only_what_it_needs(module: str, unwanted: str) -> None:
    script = f"import sys, {module}; print(*sorted(set('{unwanted}'.split()) & sys.modules.keys()))"

    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == ""
