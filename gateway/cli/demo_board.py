"""What a demonstration shows: how to use the gateway, and who spends what."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from gateway.cli.demo_agents import Agent
from gateway.cli.tables import facts

SNIPPETS = """\
# any OpenAI SDK or tool
export OPENAI_BASE_URL={url}/v1
export OPENAI_API_KEY={key}

# Python: pip install openai
from openai import OpenAI
answer = OpenAI().chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
print(answer.choices[0].message.content)

# curl
curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""


def greet(console: Console, url: str, key: str, model: str, data_dir: str) -> None:
    """The address, a key, and commands to paste; their lines are never broken."""
    rows = {
        "gateway": f"{url}/v1",
        "key": key,
        "model": f"{model}, or any of {url}/v1/models",
        "metrics": f"{url}/metrics",
        "data": data_dir,
    }
    console.print(Panel(facts(rows), title="Paymaster", expand=False))
    console.print(SNIPPETS.format(url=url, key=key, model=model), soft_wrap=True)


def board(agents: Sequence[Agent]) -> Group:
    """A row of figures for each agent, then why the router sent its last request where it did."""
    table = Table(box=None, header_style="bold")
    for header in ("agent", "requests", "spent USD", "left USD", "model"):
        table.add_column(header, no_wrap=True)
    table.add_column("state", overflow="fold")
    for agent in agents:
        figures = (str(agent.requests), agent.spent_usd, agent.remaining_usd)
        table.add_row(agent.name, *figures, agent.model, agent.state)
    return Group(table, "", facts({agent.name: agent.reason for agent in agents}))
