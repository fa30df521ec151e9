"""A lean HTTP/1.1 client: httptools on the event loop's transports, connections kept alive and used again.

It does what talking to a model needs, and nothing else: no redirects, cookies, proxies or decompression. Requests are
never sent twice, since a provider may have billed the first; how long to wait for an answer is up to the caller, who
may cancel anything at any time.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.upstream.connection import Connection, ConnectionBroken, Response
from gateway.upstream.dial import dial
from gateway.upstream.pool import Origin, Pool

__all__ = ["ConnectFailed", "ConnectionBroken", "HttpClient", "Response"]

_URL = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUES = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OWN_NAMES = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})


class ConnectFailed(Exception):
    """No connection could be made: nothing was sent."""


@lru_cache(1024)
def target(url: str) -> tuple[Origin, str, str]:
    """The origin, the path with its query, and the Host header of a URL. Raises ValueError for what is no such URL."""
    parts = urlsplit(url)
    if not _URL.fullmatch(url) or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("a URL must be like https://host:port/path, in ASCII and without a user")
    tls = parts.scheme == "https"
    default = 443 if tls else 80
    port = default if parts.port is None else parts.port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(tls, parts.hostname, port), path, host if port == default else f"{host}:{port}"


@lru_cache(1024)
def _check_names(names: tuple[str, ...]) -> None:
    """Raises ValueError for header names that HTTP does not allow or that are the client's own."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if name.lower() in _OWN_NAMES:
            raise ValueError(f"the header {name} is the client's own")


def _lines(headers: Mapping[str, str]) -> str:
    """Headers as they are sent. Raises ValueError for what HTTP does not allow; its message holds no value."""
    _check_names(tuple(headers))
    if not _VALUES.fullmatch("".join(headers.values())):
        raise ValueError(f"one of the headers {', '.join(headers)} has a character that HTTP does not allow")
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


class HttpClient:
    """Sends requests and keeps the connections. Times in seconds.

    `connect_timeout` covers finding the host, connecting and the TLS handshake; an unused connection is kept for
    `idle`. Without an `ssl_context` certificates are checked against the system's authorities.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        idle: float,
        max_idle_per_origin: int = 100,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._pool: Pool[Connection] = Pool(idle, max_idle_per_origin)
        self._tls = ssl_context

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send `body` and wait for the head of the response.

        Raises ConnectFailed where nothing was sent, ConnectionBroken where something may have been, and ValueError for
        a URL or headers that cannot be sent.
        """
        return await self._request("POST", url, f"content-length: {len(body)}\r\n{_lines(headers)}", body)

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Like `post`, without a body."""
        return await self._request("GET", url, _lines(headers), b"")

    async def close(self) -> None:
        """End all connections, those in use too."""
        await self._pool.close()

    async def _request(self, method: str, url: str, lines: str, body: bytes) -> Response:
        origin, path, host = target(url)
        head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept-encoding: identity\r\n{lines}\r\n".encode("latin-1")
        connection = self._pool.take(origin) or await self._connect(origin)
        return await connection.exchange(head, body)

    async def _connect(self, origin: Origin) -> Connection:
        """Open a connection. Raises ConnectFailed."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                sock = await dial(origin.host, origin.port)
                return await self._converse(sock, origin)
        except (OSError, UnicodeError) as exc:
            raise ConnectFailed(
                f"no connection to {origin.host} port {origin.port}: {str(exc) or 'it takes too long'}"
            ) from exc

    async def _converse(self, sock: socket.socket, origin: Origin) -> Connection:
        """Hand a connected socket to the event loop, and go through the TLS handshake where there is one."""
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._pool, origin, sock),
            sock=sock,
            ssl=self._verification() if origin.tls else None,
            server_hostname=origin.host if origin.tls else None,
        )
        if transport.is_closing():
            raise ConnectionResetError("it hung up at once")
        self._pool.add(connection)
        return connection

    def _verification(self) -> ssl.SSLContext:
        """Made with the first TLS connection: reading the authorities takes 40 ms and 2.5 MiB."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
