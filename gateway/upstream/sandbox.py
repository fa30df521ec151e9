"""The sandbox's own bill, fetched for whoever wants to compare it with the ledger."""

import asyncio

from gateway.errors import NoSandbox, UpstreamFailed
from gateway.upstream.http1 import ConnectFailed, ConnectionBroken, HttpClient

TIMEOUT = 5.0
"""Seconds for all of it; the sandbox is on this machine."""


class SandboxBill:
    """Reads the bill of the sandbox process that the supervisor started."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self._url = url
        self._token = token
        self._client = HttpClient(connect_timeout=TIMEOUT, idle=TIMEOUT)

    async def read(self) -> bytes:
        """The bill as JSON. Raises NoSandbox where none is running, UpstreamFailed where it does not answer."""
        if self._url is None or self._token is None:
            raise NoSandbox
        url = f"{self._url.removesuffix('/v1')}/bill"
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._fetch(url, self._token)
        except (ConnectFailed, ConnectionBroken, TimeoutError) as exc:
            raise UpstreamFailed("sandbox", "cut", str(exc) or "it takes too long") from exc

    async def _fetch(self, url: str, token: str) -> bytes:
        response = await self._client.get(url, {"authorization": f"Bearer {token}"})
        try:
            bill = b""
            while (piece := await response.read()) is not None:
                bill += piece
        finally:
            response.release()
        if response.status != 200:
            raise ConnectionBroken(f"status {response.status}")
        return bill

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()
