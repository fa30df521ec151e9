"""The pipelined connection: one write a turn, answers in order whatever callers do, and every way Redis can fail."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.embedded import EmbeddedRedis
from budgets.errors import LedgerUnavailable, ScriptFailed
from budgets.redis_connection import CANNOT_SERVE, Address, RedisConnection, Script, load_script
from gateway.process import free_port

PATIENCE = 5.0
"""A deadline for tests that are not about deadlines, in seconds."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(url: str, deadline: float = PATIENCE) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(url, deadline=deadline)
    await connection.connect()
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


class Server:
    """A Valkey server of the test's own, to be stopped, killed and misconfigured."""

    def __init__(self, folder: Path) -> None:
        self.embedded = EmbeddedRedis(folder, folder)
        self.url = self.embedded.start()
        self.client = redis.Redis(unix_socket_path=str(folder / "redis.sock"))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def start(self) -> None:
        self.embedded.start()
        self.pid = int(self.client.info("server")["process_id"])


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    yield server
    server.signal(signal.SIGCONT)
    server.signal(signal.SIGKILL)


@asynccontextmanager
async def listening(folder: Path, handler: Handler) -> AsyncIterator[str]:
    """The URL of something that is not Redis."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, folder / "other.sock")
    async with server:
        yield f"unix://{folder / 'other.sock'}"


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the greeting, as a Redis does that does not tell which one it is."""
    await reader.readuntil(b"PING\r\n")
    writer.write(b"+PONG\r\n")
    await reader.readuntil(b"replication\r\n")
    writer.write(2 * b"-ERR unknown command\r\n")


async def answered(connection: RedisConnection) -> bytes:
    """The first answer to a PING after Redis has come back."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await connection.call("PING")
            except LedgerUnavailable:
                await asyncio.sleep(0.005)


async def refused(connection: RedisConnection, reason: str) -> None:
    """Return once a PING is refused for this reason."""
    async with asyncio.timeout(10):
        while True:
            try:
                await connection.call("PING")
            except LedgerUnavailable as outage:
                if reason in outage.reason:
                    return
            await asyncio.sleep(0.005)


async def test_an_answer_is_what_redis_says(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        assert await connection.call("SET", "name", b"\x00\xff") == b"OK"
        assert await connection.call("GET", "name") == b"\x00\xff"
        assert await connection.call("INCRBY", "count", 2**53) == 2**53
        assert await connection.call("GET", "nothing") is None
        assert await connection.call("MGET", "name", "nothing") == [b"\x00\xff", None]


async def test_commands_of_one_turn_are_sent_before_any_is_answered(folder: Path) -> None:
    async def counts_to_a_hundred(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        for _ in range(100):
            await reader.readuntil(b"PING\r\n")
        writer.write(b"".join(b":%d\r\n" % number for number in range(100)))
        await reader.read()

    async with listening(folder, counts_to_a_hundred) as url, connected(url) as connection:
        assert await asyncio.gather(*(connection.send("PING") for _ in range(100))) == list(range(100))


async def test_closing_hangs_up_and_fails_what_has_no_answer(folder: Path) -> None:
    hung_up = asyncio.Event()

    async def greets_and_says_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        await reader.read()
        hung_up.set()

    async with listening(folder, greets_and_says_no_more) as url:
        async with connected(url) as connection:
            await connection.call("PING")
            unanswered = connection.send("PING")
        async with asyncio.timeout(PATIENCE):
            await hung_up.wait()

    with pytest.raises(LedgerUnavailable, match="was closed"):
        await unanswered


@given(st.lists(st.sampled_from(["wait", "cancel at once", "cancel when sent"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_answers_reach_their_callers_whoever_cancels(valkey_socket: str, callers: list[str]) -> None:
    async def scenario() -> None:
        async with connected(f"unix://{valkey_socket}") as connection:
            futures = [connection.send("ECHO", str(number)) for number in range(len(callers))]
            for moment in ("cancel at once", "cancel when sent"):
                for future in (future for future, caller in zip(futures, callers, strict=True) if caller == moment):
                    future.cancel()
                await asyncio.sleep(0)  # the turn ends: what was cancelled so far was cancelled before the write
            waiting = {number: futures[number] for number, caller in enumerate(callers) if caller == "wait"}
            assert {number: int(await future) for number, future in waiting.items()} == {n: n for n in waiting}

    uvloop.run(scenario())


async def test_a_cancelled_command_has_run_nevertheless(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        connection.send("INCR", "count").cancel()

        assert await connection.call("GET", "count") == b"1"


async def test_an_answer_before_the_deadline_is_waited_for(redis_url: str) -> None:
    async with connected(redis_url, deadline=1.0) as connection:
        assert await connection.call("BLPOP", "nothing", "0.3") is None


async def test_a_late_answer_is_not_given_to_the_next_caller(server: Server) -> None:
    async with connected(server.url, deadline=0.05) as connection:
        server.signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable, match="in time"):
            await connection.call("ECHO", "late")
        server.signal(signal.SIGCONT)

        await answered(connection)
        assert await connection.call("ECHO", "next") == b"next"


async def test_while_redis_is_silent_calls_fail_at_once(server: Server) -> None:
    async with connected(server.url, deadline=0.05) as connection:
        server.signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable):
            await connection.call("PING")

        refused = connection.send("PING")
        assert refused.done()
        assert not connection.connected
        with pytest.raises(LedgerUnavailable):
            await refused


async def test_a_server_that_hangs_for_long_is_given_up_and_found_again(server: Server) -> None:
    async with connected(server.url, deadline=0.02) as connection:
        server.signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable):
            await connection.call("PING")
        await refused(connection, "cannot be used")
        server.signal(signal.SIGCONT)

        assert await answered(connection) == b"PONG"


async def test_a_killed_server_fails_what_is_under_way_and_is_found_again(server: Server) -> None:
    async with connected(server.url) as connection:
        server.signal(signal.SIGSTOP)
        under_way = [connection.send("PING") for _ in range(3)]
        await asyncio.sleep(0)
        server.signal(signal.SIGKILL)
        failures = await asyncio.gather(*under_way, return_exceptions=True)
        server.start()

        assert [type(failure) for failure in failures] == [LedgerUnavailable] * 3
        assert await answered(connection) == b"PONG"


async def test_a_reply_cut_at_any_byte_is_a_failure_and_the_command_is_not_sent_again(
    valkey_socket: str, folder: Path
) -> None:
    reply = b":100\r\n"
    cut_after = 0

    async def cuts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        upstream, to_upstream = await asyncio.open_unix_connection(valkey_socket)
        to_upstream.write(await reader.read(1000))
        writer.write((await upstream.read(1000))[:cut_after])
        await writer.drain()
        to_upstream.close()

    async with listening(folder, cuts) as url:
        for cut_after in range(len(reply)):
            async with connected(url) as connection:
                with pytest.raises(LedgerUnavailable):
                    await connection.call("INCRBY", f"cut:{cut_after}", 100)

    async with connected(f"unix://{valkey_socket}") as connection:
        counts = await connection.call("MGET", *(f"cut:{cut_after}" for cut_after in range(len(reply))))
    assert counts == [b"100"] * len(reply)


async def test_a_script_is_sent_whole_only_where_redis_does_not_know_it(server: Server) -> None:
    script = Script("return {KEYS[1], ARGV[1], tonumber(ARGV[2]) + 1}")
    async with connected(server.url) as connection:
        for _ in range(3):
            assert await connection.script(script, ["key"], [b"text", 41]) == [b"key", b"text", 42]

    calls = {name: stats["calls"] for name, stats in server.client.info("commandstats").items()}
    assert (calls["cmdstat_evalsha"], calls["cmdstat_eval"]) == (3, 1)


async def test_scripts_survive_a_flush_of_redis_script_cache(server: Server) -> None:
    script = Script("return ARGV[1]")
    async with connected(server.url) as connection:
        await connection.script(script, [], ["first"])
        server.client.script_flush()

        answers = await asyncio.gather(*(connection.script(script, [], [number]) for number in range(10)))
        assert answers == [b"%d" % number for number in range(10)]


async def test_a_script_whose_caller_gave_up_is_not_sent_again(server: Server) -> None:
    async with connected(server.url) as connection:
        connection.script(Script("return redis.call('INCR', KEYS[1])"), ["count"], []).cancel()

        assert await connection.call("ECHO", "after") == b"after"
        assert await connection.call("GET", "count") is None


async def test_a_script_that_fails_is_not_taken_for_an_outage(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        with pytest.raises(ScriptFailed, match="my words") as failure:
            await connection.script(Script("return redis.error_reply('MINE my words')"), [], [])

        assert failure.value.code == "MINE"
        assert connection.connected


async def test_a_key_of_the_wrong_type_is_not_taken_for_an_outage(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        await connection.call("SET", "text", "x")
        with pytest.raises(ScriptFailed) as failure:
            await connection.call("HGETALL", "text")

        assert failure.value.code == "WRONGTYPE"


@pytest.mark.parametrize("code", sorted(CANNOT_SERVE))
async def test_an_answer_that_redis_cannot_serve_is_an_outage_with_its_reason(code: str, folder: Path) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")
        writer.write(f"-{code} 7000 over there\r\n".encode())
        await reader.read()

    async with listening(folder, refuses) as url, connected(url) as connection:
        with pytest.raises(LedgerUnavailable) as outage:
            await connection.call("PING")

    assert outage.value.reason == f"{CANNOT_SERVE[code]} ({code} 7000 over there)"


async def test_a_full_redis_is_an_outage(server: Server) -> None:
    server.client.config_set("maxmemory", 1)
    async with connected(server.url) as connection:
        with pytest.raises(LedgerUnavailable, match="out of memory"):
            await connection.script(Script("#!lua\nreturn redis.call('SET', KEYS[1], 1)"), ["key"], [])


async def test_a_primary_that_became_a_replica_is_left_for_the_next_one(server: Server) -> None:
    async with connected(server.url) as connection:
        name = await connection.call("CLIENT", "ID")
        server.client.replicaof("127.0.0.1", "1")
        with pytest.raises(LedgerUnavailable, match="replica"):
            await connection.call("SET", "key", 1)
        server.client.replicaof("NO", "ONE")

        await answered(connection)
        assert await connection.call("CLIENT", "ID") != name


async def test_a_redis_busy_with_a_script_is_an_outage(server: Server) -> None:
    server.client.config_set("busy-reply-threshold", 1)
    async with connected(server.url) as busy, connected(server.url) as connection:
        endless = busy.script(Script("while true do end"), [], [])
        await refused(connection, "busy")
        await connection.call("SCRIPT", "KILL")
        with pytest.raises(ScriptFailed):
            await endless


async def test_user_password_and_database_come_from_the_url(server: Server) -> None:
    server.client.acl_setuser("ann", enabled=True, passwords=["+p@ss"], commands=["+@all"], keys=["*"])
    path = server.url.removeprefix("unix://")
    async with connected(f"unix://ann:p%40ss@{path}?db=3") as connection:
        assert await connection.call("ACL", "WHOAMI") == b"ann"
        await connection.call("SET", "key", 1)

    assert redis.Redis(unix_socket_path=path, db=3).get("key") == b"1"


async def test_a_command_that_the_user_may_not_run_is_an_outage(server: Server) -> None:
    server.client.acl_setuser("ann", enabled=True, nopass=True, commands=["+ping"])
    async with connected(server.url.replace("unix://", "unix://ann:x@")) as connection:
        with pytest.raises(LedgerUnavailable, match="may not run"):
            await connection.call("GET", "key")


@pytest.mark.parametrize(("user", "reason"), [("", "asks for a password"), ("ann:wrong@", "refuses the user")])
async def test_a_missing_or_wrong_password_is_told_when_connecting(server: Server, user: str, reason: str) -> None:
    server.client.config_set("requirepass", "secret")
    connection = RedisConnection(server.url.replace("unix://", f"unix://{user}"))

    with pytest.raises(LedgerUnavailable, match=reason):
        await connection.connect()
    await connection.close()


async def test_what_is_not_redis_is_told_when_connecting(folder: Path) -> None:
    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(folder, web_server) as url:
        connection = RedisConnection(url)
        with pytest.raises(LedgerUnavailable, match="does not speak its protocol"):
            await connection.connect()
        await connection.close()


async def test_an_answer_to_no_question_ends_the_connection(folder: Path) -> None:
    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(b"+AND MORE\r\n")
        await reader.read()

    async with listening(folder, talkative) as url, connected(url) as connection:
        with pytest.raises(LedgerUnavailable):
            await connection.call("PING")


async def test_a_redis_that_is_away_at_first_is_found_when_it_comes(folder: Path) -> None:
    connection = RedisConnection(f"unix://{folder}/redis.sock")
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        await connection.connect()
    server = Server(folder)

    assert await answered(connection) == b"PONG"
    await connection.close()
    server.embedded.stop()


async def test_before_it_is_connected_every_call_fails() -> None:
    with pytest.raises(LedgerUnavailable, match="not connected"):
        await RedisConnection("redis://127.0.0.1:1").call("PING")


async def test_closing_fails_what_is_under_way(server: Server) -> None:
    async with connected(server.url) as connection:
        server.signal(signal.SIGSTOP)
        under_way = connection.send("PING")

    with pytest.raises(LedgerUnavailable, match="was closed"):
        await under_way


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_pause_of_our_own_is_not_blamed_on_redis(valkey_socket: str, run: Callable[..., None]) -> None:
    async def scenario() -> None:
        async with connected(f"unix://{valkey_socket}", deadline=0.1) as connection:
            answer = connection.send("PING")
            await asyncio.sleep(0)  # the command leaves
            time.sleep(0.5)  # noqa: ASYNC251 - the pause, several deadlines long
            assert await answer == b"PONG"

    run(scenario())


async def test_redis_over_tcp(server: Server) -> None:
    port = free_port()
    server.client.config_set("port", port)

    async with connected(f"redis://127.0.0.1:{port}/1") as connection:
        assert await connection.call("PING") == b"PONG"


@pytest.fixture
def tls_url(folder: Path) -> Iterator[str]:
    """The URL of a Redis with TLS whose certificate is `cert.pem` in `folder`; it may still be starting."""
    if not shutil.which("redis-server"):
        pytest.skip("needs a server with TLS: apt-get install redis-server")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / "key.pem"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, *name, "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    port = free_port()
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--save", "", "--dir", folder]
    files = ["--tls-cert-file", folder / "cert.pem", "--tls-key-file", folder / "key.pem"]
    with subprocess.Popen(["redis-server", *options, *files], stdout=subprocess.DEVNULL) as process:
        yield f"rediss://localhost:{port}"
        process.terminate()


async def test_redis_over_tls_proves_who_it_is(folder: Path, tls_url: str) -> None:
    known = RedisConnection(f"{tls_url}?ssl_ca_certs={folder}/cert.pem", deadline=PATIENCE)
    with suppress(LedgerUnavailable):
        await known.connect()
    stranger = RedisConnection(tls_url, deadline=PATIENCE)

    assert await answered(known) == b"PONG"
    with pytest.raises(LedgerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await stranger.connect()
    await known.close()
    await stranger.close()


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        Address.parse("http://127.0.0.1")


def test_an_address_does_not_tell_the_password() -> None:
    assert str(Address.parse("redis://ann:secret@cache.example:6380/2")) == "cache.example:6380"


def test_a_script_is_known_by_its_sha1(valkey_socket: str) -> None:
    script = load_script("void")

    assert redis.Redis(unix_socket_path=valkey_socket).script_load(script.source) == script.sha1
