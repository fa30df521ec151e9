"""What the demonstration shows."""

import io

from rich.console import Console

from gateway.cli.demo_agents import Agent
from gateway.cli.demo_board import board, greet


def screen(width: int) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width, markup=False), text


def test_commands_to_paste_are_never_broken() -> None:
    console, text = screen(40)

    greet(console, "http://127.0.0.1:4000", "sk-pm-default-1234567890", "auto", "/data")
    lines = text.getvalue().splitlines()
    assert "export OPENAI_BASE_URL=http://127.0.0.1:4000/v1" in lines
    assert "export OPENAI_API_KEY=sk-pm-default-1234567890" in lines
    assert any(line.startswith("curl http://127.0.0.1:4000/v1/chat/completions") for line in lines)


def test_python_to_paste_is_python() -> None:
    console, text = screen(200)

    greet(console, "http://127.0.0.1:4000", "sk-pm-default-1234567890", "auto", "/data")
    python = text.getvalue().split("# Python")[1].split("\n\n")[0].partition("\n")[2]
    assert compile(python, "snippet", "exec")


def test_every_agent_is_shown_with_its_money_and_reason() -> None:
    console, text = screen(100)
    agent = Agent("chat-user", "sk-pm-secret", "key_1", requests=3, model="small", reason="simple: short")
    agent.spent_usd, agent.remaining_usd, agent.state = "0.01", "0.99", "thinking"

    console.print(board([agent]))
    shown = text.getvalue()
    assert all(word in shown for word in ("chat-user", "3", "0.01", "0.99", "small", "thinking", "simple: short"))
    assert "sk-pm-secret" not in shown
