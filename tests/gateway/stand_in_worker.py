"""A worker with a small application in the place of the gateway: `python stand_in_worker.py` under a supervisor."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from gateway.settings import Runtime, Settings
from gateway.worker import main


class StandIn:
    """Tells who serves it; echoes a body piece by piece as it comes, so that the client decides how long that takes."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        writer: object,
        *,
        reread: Callable[[], Settings],
        reload_all: Callable[[], None],
    ) -> None:
        if "broken" in settings.models:
            sys.exit("broken on purpose")
        while "held" in settings.models and not (settings.data_dir / "go").exists():
            time.sleep(0.01)
        self.settings = settings
        self.runtime = runtime
        self.reread = reread
        self.reload_all = reload_all

    def reload(self) -> None:
        self.settings = self.reread()

    async def __call__(self, scope: Any, receive: Any, send: Any, /) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        elif scope["path"] == "/echo":
            await self.echo(receive, send)
        else:
            if scope["path"] == "/reload":
                self.reload_all()
            await self.tell(scope, send)

    async def tell(self, scope: Any, send: Any) -> None:
        facts = {
            "pid": os.getpid(),
            "worker": self.runtime.worker,
            "port": scope["server"][1],
            "models": sorted(self.settings.models),
            "redis_url": self.runtime.redis_url,
            "sandbox_url": self.runtime.sandbox_url,
            "sandbox_token": self.runtime.sandbox_token,
            "loop": type(asyncio.get_running_loop()).__module__,
        }
        body = json.dumps(facts).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def echo(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})
            if not more:
                return


if __name__ == "__main__":
    main(StandIn)
