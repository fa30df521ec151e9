"""Faults are met on the event loop that serves in production."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Read by pytest-asyncio for every test in this folder."""
    return {"uvloop": uvloop.new_event_loop}
