"""A gateway worker that breaks when told to, `python -m gateway.chaos.worker`: the production worker, wrapped."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.app import Gateway, create_app
from gateway.auth import Caller
from gateway.chaos.wrappers import Breaker, install
from gateway.settings import Runtime, Settings
from gateway.telemetry.logs import LineWriter
from gateway.worker import main

FOLDER = "PAYMASTER_CHAOS"
"""The variable that names the world's folder."""
SCOPES = "PAYMASTER_CHAOS_SCOPES"
"""The variable with the scopes, in between the account and the key, that pay for every caller."""


def create_chaos_app(
    folder: Path,
    settings: Settings,
    runtime: Runtime,
    writer: LineWriter,
    *,
    reread: Callable[[], Settings],
    reload_all: Callable[[], None],
) -> Gateway:
    """The production application, once its process has said who it is."""
    draft = folder / f"worker-{os.getpid()}.draft"
    draft.write_text(str(os.getpid()))
    draft.rename(folder / f"worker-{runtime.worker}.pid")
    return create_app(settings, runtime, writer, reread=reread, reload_all=reload_all)


def add_scopes(scopes: list[str]) -> None:
    """Have more pay for every caller than the account and the key."""

    def more(caller: Caller) -> tuple[str, ...]:
        return (*scopes, f"key:{caller.record.id}")

    Caller.scopes = property(more)  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    if os.environ.get(SCOPES):
        add_scopes(os.environ[SCOPES].split(","))
    install(Breaker(Path(os.environ[FOLDER])))
    main(partial(create_chaos_app, Path(os.environ[FOLDER])))
