"""What is said of servers that would forget or refuse money: real ones, each set up wrongly in its own way."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from conftest import valkey_binary
from redis.backoff import NoBackoff
from redis.retry import Retry

from budgets.server_check import PERMISSIONS, Problem, check_server
from gateway.process import free_port

PATIENCE = 20.0
"""Seconds after which a server counts as one that does not do what it should."""
Client = redis.Redis
Start = Callable[..., Client]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers with these options besides good ones, and stops them."""
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:

        def started(*options: str, config: str | None = None) -> Client:
            path = Path(folder) / f"{len(processes)}"
            path.mkdir()
            arguments = ["--port", "0", "--unixsocket", f"{path}/s", "--dir", str(path), "--save", ""]
            if config is not None:
                (path / "conf").write_text(config)
                arguments = [f"{path}/conf", *arguments[:4]]
            elif "--appendonly" not in options:
                arguments += ["--appendonly", "yes"]
            command = [valkey_binary(), *arguments, *options]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            return answering(f"{path}/s")

        yield started
        for process in processes:
            process.kill()
            process.wait()


def answering(path: str, **user: str) -> Client:
    client = redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0), **user)
    until(client.ping)
    return client


def until(true: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while True:
        with suppress(redis.ConnectionError):
            if true():
                return
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def as_user(server: Client, *commands: str, keys: str = "*") -> Client:
    server.acl_setuser("ann", enabled=True, nopass=True, commands=commands, keys=[keys])
    path = server.connection_pool.connection_kwargs["path"]
    return redis.Redis(unix_socket_path=path, username="ann", password="x")


def test_a_server_set_up_well_has_no_problem(start: Start) -> None:
    assert check_server(start()) == []


def test_a_server_that_evicts_is_unfit(start: Start) -> None:
    [problem] = check_server(start("--maxmemory-policy", "allkeys-lru"))

    assert problem.fatal
    assert "maxmemory-policy is allkeys-lru; it must be noeviction" in problem.message


def test_a_server_without_an_append_only_file_is_warned_of(start: Start) -> None:
    [problem] = check_server(start("--appendonly", "no"))

    assert not problem.fatal
    assert "set appendonly yes" in problem.message


def test_a_server_that_leaves_writing_to_the_system_is_warned_of(start: Start) -> None:
    [problem] = check_server(start("--appendfsync", "no"))

    assert not problem.fatal
    assert "set appendfsync everysec" in problem.message


def test_a_replica_is_unfit_and_its_primary_named(start: Start) -> None:
    [problem] = check_server(start("--replicaof", "127.0.0.1 1"))

    assert problem == Problem("this Redis is a replica of 127.0.0.1:1; REDIS_URL must name the primary", fatal=True)


def test_a_server_with_little_memory_is_warned_of(start: Start) -> None:
    [problem] = check_server(start("--maxmemory", "30mb"))

    assert not problem.fatal
    assert problem.message.startswith("maxmemory is 30.0 MiB, of which ")
    assert "once that is full, callers with a limit are refused" in problem.message


def test_a_server_that_is_nearly_full_is_warned_of_however_large_it_is(start: Start) -> None:
    server = start("--maxmemory", "75mb")
    assert check_server(server) == []
    for number in range(500):
        server.set(f"much:{number}", b"x" * 2**17)

    [problem] = check_server(server)
    assert not problem.fatal
    assert problem.message.startswith("maxmemory is 75.0 MiB, of which 6")


def test_a_full_server_is_unfit(start: Start) -> None:
    server = start()
    server.config_set("maxmemory", 1)

    [problem] = check_server(server)
    assert problem.fatal
    assert "nothing more can be booked" in problem.message


def test_a_server_that_cannot_write_to_its_disk_is_warned_of(start: Start) -> None:
    server = start()
    Path(server.config_get("dir")["dir"], "dump.rdb").mkdir()  # where it wants to write a file
    server.bgsave()
    until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")

    [problem] = check_server(server)
    assert not problem.fatal
    assert "rdb_last_bgsave_status: err" in problem.message


def test_all_problems_are_told_at_once(start: Start) -> None:
    server = start("--maxmemory-policy", "volatile-ttl", "--replicaof", "127.0.0.1 1", "--appendonly", "no")

    assert [problem.fatal for problem in check_server(server)] == [True, True, False]


@pytest.mark.parametrize(("ahead", "words"), [(-30, "30 s ahead of"), (3_600, "3600 s behind")])
def test_clocks_that_differ_are_warned_of(start: Start, ahead: float, words: str) -> None:
    [problem] = check_server(start(), lambda: time.time() + ahead)

    assert not problem.fatal
    assert f"the clock of Redis is {words} this machine's" in problem.message


# Who may do what


def test_a_user_who_may_run_no_scripts_is_told_what_is_needed(start: Start) -> None:
    [problem] = check_server(as_user(start(), "+@all", "-@scripting"))

    assert problem.fatal
    assert problem.message.endswith(f"it needs {PERMISSIONS}")


def test_a_user_who_lacks_a_single_command_is_told_which(start: Start) -> None:
    [problem] = check_server(as_user(start(), "+@all", "-set", "-smembers", "-hincrby", "-time"))

    message = f"the user in REDIS_URL may not run HINCRBY, SET, SMEMBERS, TIME; it needs {PERMISSIONS}"
    assert problem == Problem(message, fatal=True)


def test_what_is_said_to_be_needed_is_enough(start: Start) -> None:
    keys, *commands = PERMISSIONS.split()

    assert check_server(as_user(start(), *commands, keys=keys.removeprefix("~"))) == []


def test_a_server_that_hides_its_settings_is_said_to_be_unchecked(start: Start) -> None:
    [problem] = check_server(as_user(start("--maxmemory-policy", "allkeys-lru"), "+@all", "-info", "-config"))

    assert not problem.fatal
    assert "maxmemory-policy must be noeviction" in problem.message


# What is no such server at all


def test_a_sentinel_is_no_place_for_money(start: Start) -> None:
    [problem] = check_server(start("--sentinel", config="protected-mode no\n"))

    assert problem == Problem("this is a Sentinel, which keeps no data; REDIS_URL must name the primary", fatal=True)


def test_a_part_of_a_cluster_is_no_place_for_all_accounts(start: Start) -> None:
    ports = [free_port(), free_port()]
    nodes = [
        start("--port", f"{port}", "--cluster-enabled", "yes", "--cluster-port", f"{free_port()}") for port in ports
    ]
    bus = nodes[1].config_get("cluster-port")["cluster-port"]
    nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", ports[1], bus)
    nodes[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 8_000)
    nodes[1].execute_command("CLUSTER ADDSLOTSRANGE", 8_001, 16_383)
    until(lambda: nodes[0].execute_command("CLUSTER INFO")["cluster_size"] == "2")

    [problem] = check_server(nodes[0])
    assert problem.fatal
    assert "one of 2 primaries of a cluster" in problem.message
