"""The file as text: lines, variables and repeated keys."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import ConfigurationError, admin_url, configuration_path, data_dir, dotted, parse, read


def messages(text: str, environ: dict[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in parse(text, "p.yaml", environ or {}).problems]


def test_scalars_stay_the_text_they_were_written_as() -> None:
    values = parse("{a: 0.10, b: 1e-7, c: yes, d: '2', e: 0x10, f: 2027-01-01}", "p.yaml", {}).values

    assert values == {"a": "0.10", "b": "1e-7", "c": "yes", "d": "2", "e": "0x10", "f": "2027-01-01"}


def test_null_and_an_empty_value_are_none() -> None:
    assert parse("a:\nb: null\nc: ~\nd: ''", "p.yaml", {}).values == {"a": None, "b": None, "c": None, "d": ""}


def test_an_empty_file_has_no_values() -> None:
    assert parse("# nothing yet\n", "p.yaml", {}).values == {}


def test_every_field_knows_its_line() -> None:
    document = parse("models:\n  small:\n    model: x\n  big: [1,\n   2]\n", "p.yaml", {})

    assert document.lines[("models", "small", "model")] == 3
    assert document.lines[("models", "big", 1)] == 5
    assert str(document.problem(("models", "small", "provider"), "is missing")) == (
        "p.yaml:2: models.small.provider: is missing"
    )


def test_variables_are_put_into_values() -> None:
    text = "a: ${KEY}\nb: http://${HOST:-localhost}:${PORT:-80}/\nc: '$${KEY}'\nd: ${EMPTY:-}\n"

    assert parse(text, "p.yaml", {"KEY": "k", "PORT": "81"}).values == {
        "a": "k",
        "b": "http://localhost:81/",
        "c": "${KEY}",
        "d": "",
    }


def test_the_text_of_a_variable_is_not_read_as_yaml() -> None:
    assert parse("a: ${KEY}", "p.yaml", {"KEY": "x: [y] # ${KEY}"}).values == {"a": "x: [y] # ${KEY}"}


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}])
def test_a_variable_not_set_or_empty_is_a_problem_at_its_line(environ: dict[str, str]) -> None:
    assert messages("x: 1\na:\n  - ${KEY}\n", environ) == ["p.yaml:3: a[0]: the environment variable KEY is not set"]


def test_a_variable_in_a_comment_is_not_looked_at() -> None:
    assert messages("a: 1 # ${KEY}\n") == []


def test_a_repeated_key_is_a_problem_and_the_first_one_stays() -> None:
    document = parse("a:\n  x: 1\n  y: 2\n  x: 3\n", "p.yaml", {})

    assert [str(problem) for problem in document.problems] == ["p.yaml:4: a.x: repeats line 2"]
    assert document.values == {"a": {"x": "1", "y": "2"}}


def test_anchors_are_followed_and_one_inside_itself_is_a_problem() -> None:
    assert parse("a: &x {k: 1}\nb: *x\n", "p.yaml", {}).values == {"a": {"k": "1"}, "b": {"k": "1"}}
    assert "nested too deeply" in messages("a: &x [*x]\n")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "p.yaml:2: no valid YAML: "),
        ("a: 1\n\tb: 2\n", "p.yaml:2: no valid YAML: "),
        ("a: *x\n", "p.yaml:1: no valid YAML: found undefined alias 'x'"),
        ("- a\n", "p.yaml:1: should be a mapping of fields"),
        ("a: \x00\n", "p.yaml: no valid YAML: "),
        ("a: 1\n---\nb: 2\n", "p.yaml:2: no valid YAML: "),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "p.yaml", {})

    assert str(caught.value).startswith(message)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        parse(text, "p.yaml", {})


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")

    for name, message in {"none.yaml": "No such file", "": "Is a directory", "latin.yaml": "not UTF-8"}.items():
        with pytest.raises(ConfigurationError, match=message):
            read(tmp_path / name, {})


def test_the_file_is_the_one_named_else_the_variables_else_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configuration_path(None, {}) is None

    (tmp_path / "paymaster.yaml").touch()
    assert configuration_path(None, {}) == Path("paymaster.yaml")
    assert configuration_path(None, {"PAYMASTER_CONFIG": "/etc/p.yaml"}) == Path("/etc/p.yaml")
    assert configuration_path(Path("mine.yaml"), {"PAYMASTER_CONFIG": "/etc/p.yaml"}) == Path("mine.yaml")


def test_the_data_folder_is_the_variables_else_the_files_else_the_users() -> None:
    assert data_dir({"PAYMASTER_DATA_DIR": "/d"}, "/f") == Path("/d")
    assert data_dir({"XDG_DATA_HOME": "/x"}, "/f") == Path("/f")
    assert data_dir({"XDG_DATA_HOME": "/x"}) == Path("/x/paymaster")
    assert data_dir({}) == Path.home() / ".local/share/paymaster"
    assert data_dir({}, "data").is_absolute()


def test_a_path_is_written_as_in_a_program() -> None:
    assert dotted(("routes", "auto", "tiers", "simple", 0)) == "routes.auto.tiers.simple[0]"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:4000"),
        ("server:\nadmin:\n", "http://127.0.0.1:4000"),
        ("server: {port: 5000}", "http://127.0.0.1:5000"),
        ("server: {host: 0.0.0.0}", "http://127.0.0.1:4000"),
        ("server: {host: '::', port: 1}", "http://[::1]:1"),
        ("server: {host: gateway.example}", "http://gateway.example:4000"),
        ("{server: {port: 5000}, admin: {listen: '127.0.0.1:5001'}}", "http://127.0.0.1:5001"),
        ("admin: {listen: '[::1]:5001'}", "http://[::1]:5001"),
        ("{server: 4000, admin: [x]}", "http://127.0.0.1:4000"),
    ],
)
def test_the_admin_api_is_where_the_file_says(text: str, url: str) -> None:
    assert admin_url(parse(text, "p.yaml", {}).values) == url
