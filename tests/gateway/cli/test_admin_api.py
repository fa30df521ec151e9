"""How commands find the gateway and its admin key, and what they say when they do not."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from gateway.cli.admin_api import KEY_FILE, admin_key, connect
from gateway.cli.errors import CommandError
from gateway.secrets import ADMIN_KEY_FILE

Command = Callable[..., Result]


def test_the_admin_key_is_the_variables_else_the_data_folders(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("from-file\n")

    assert admin_key({"PAYMASTER_DATA_DIR": str(tmp_path)}) == "from-file"
    assert admin_key({"PAYMASTER_DATA_DIR": str(tmp_path), "PAYMASTER_ADMIN_KEY": "from-env"}) == "from-env"


def test_the_file_is_the_one_that_the_gateway_makes() -> None:
    assert KEY_FILE == ADMIN_KEY_FILE


def test_the_data_folder_may_be_the_one_of_the_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paymaster.yaml").write_text("data_dir: mine\nproviders: {a: {kind: openai, api_key: '${NOT_SET}'}}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "admin.key").write_text("from-file")

    assert admin_key({}) == "from-file"


def test_the_gateway_is_where_the_configuration_file_says_unless_a_variable_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paymaster.yaml").write_text("server: {host: 0.0.0.0, port: 5000}\nadmin: {listen: '127.0.0.1:5001'}\n")
    environ = {"PAYMASTER_ADMIN_KEY": "x"}

    with connect(environ) as found, connect(environ | {"PAYMASTER_URL": "http://other:1"}) as told:
        assert (found.url, told.url) == ("http://127.0.0.1:5001", "http://other:1")


def test_without_an_admin_key_the_command_says_where_it_looked(paymaster: Command, tmp_path: Path) -> None:
    result = paymaster("keys", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("no admin key; set PAYMASTER_ADMIN_KEY")
    assert str(tmp_path / "data" / "admin.key") in result.stderr


def test_an_admin_key_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "admin.key").mkdir()

    with pytest.raises(CommandError, match="cannot be read: Is a directory"):
        admin_key({"PAYMASTER_DATA_DIR": str(tmp_path)})


def test_without_a_gateway_the_command_says_how_to_start_one(paymaster: Command) -> None:
    result = paymaster("route", "hello", PAYMASTER_ADMIN_KEY="x", PAYMASTER_URL="http://127.0.0.1:1")

    assert result.exit_code == 1
    assert result.stderr.strip() == (
        "no gateway answers at http://127.0.0.1:1; start one with `paymaster serve`, or set PAYMASTER_URL"
    )


def test_a_wrong_admin_key_is_told_with_where_it_comes_from(paymaster: Command, gateway_url: str) -> None:
    result = paymaster("keys", "list", PAYMASTER_ADMIN_KEY="wrong", PAYMASTER_URL=gateway_url)

    assert result.exit_code == 1
    assert "The admin key comes from PAYMASTER_ADMIN_KEY, else from admin.key in the data folder." in result.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:4000", "http://[", "ftp://x"])
def test_what_is_no_address_is_told(paymaster: Command, url: str) -> None:
    result = paymaster("keys", "list", PAYMASTER_ADMIN_KEY="x", PAYMASTER_URL=url)

    assert result.exit_code == 1
    assert "PAYMASTER_URL" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a web server that is no gateway."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_web_server_is_not_taken_for_a_gateway(paymaster: Command, stranger: str) -> None:
    result = paymaster("keys", "list", PAYMASTER_ADMIN_KEY="x", PAYMASTER_URL=stranger)

    assert result.exit_code == 1
    assert "not as a Paymaster gateway" in result.stderr
