"""The sandbox's own bill, fetched for whoever wants to compare it with the ledger."""

from pyreqwest.client import ClientBuilder

from gateway.errors import NoSandbox


class SandboxBill:
    """Reads the bill of the sandbox process that the supervisor started."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self._url = url
        self._token = token
        self._client = ClientBuilder().no_proxy().build()

    async def read(self) -> bytes:
        """The bill as JSON. Raises NoSandbox where none is running."""
        if self._url is None or self._token is None:
            raise NoSandbox
        origin = self._url.removesuffix("/v1")
        response = await self._client.get(f"{origin}/bill").bearer_auth(self._token).build().send()
        return bytes(await response.bytes())

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()
