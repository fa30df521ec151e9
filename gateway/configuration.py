"""A configuration file as text with line numbers: YAML in, plain values out, every error with its place.

Numbers stay the text they were written as, so that a price of `0.1` never becomes a binary float; `settings.py` knows
which fields are numbers. Of YAML's plain scalars only null means something here. `${NAME}` and `${NAME:-default}`
in values stand for environment variables, `$${` for a plain `${`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

FieldPath: TypeAlias = tuple[str | int, ...]
"""Where a value is: `("models", "small", "price")`."""

DEFAULT_FILE = Path("paymaster.yaml")
DEFAULT_PORT = 4000

_VARIABLE = re.compile(r"\$?\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_NULL_TAG = "tag:yaml.org,2002:null"
_MAX_DEPTH = 16
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens everywhere is reached here


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, as `file:line: message`; `line` counts from 1, None where no line is to blame."""

    source: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}" if self.line else f"{self.source}: {self.message}"


class ConfigurationError(Exception):
    """The configuration cannot be used. Its text is one line per problem; no secret is in it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(slots=True)
class Document:
    """A file's values as dicts, lists, texts and None, with the line and the spelling of each."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[FieldPath, int] = field(default_factory=dict)
    written: dict[FieldPath, str] = field(default_factory=dict)
    """Scalars before any variable was put in: what an error may show."""
    problems: list[Problem] = field(default_factory=list)
    unset: set[FieldPath] = field(default_factory=set)
    """Where variables are not set. That is told; what else is wrong with the empty text there is of no interest."""

    def problem(self, path: FieldPath, message: str) -> Problem:
        """What is wrong with the field at `path`, placed at its line or at that of the nearest one around it."""
        lines = (self.lines.get(path[:length]) for length in range(len(path), -1, -1))
        return Problem(self.source, next(filter(None, lines), None), f"{dotted(path)}: {message}" if path else message)


def dotted(path: FieldPath) -> str:
    """`("routes", "auto", "tiers", 0)` as `routes.auto.tiers[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def configuration_path(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `path`, else `PAYMASTER_CONFIG`, else `paymaster.yaml` where the working folder has one."""
    named = path or (Path(environ["PAYMASTER_CONFIG"]) if environ.get("PAYMASTER_CONFIG") else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)


def data_dir(environ: Mapping[str, str], configured: object = None) -> Path:
    """Where keys, journals and the embedded server's data are kept; absolute."""
    shared = environ.get("XDG_DATA_HOME") or "~/.local/share"
    chosen = environ.get("PAYMASTER_DATA_DIR") or configured or f"{shared}/paymaster"
    return Path(str(chosen)).expanduser().absolute()


def admin_url(values: Mapping[str, Any]) -> str:
    """Where a gateway of this machine with the values of this file serves the admin API, not looked at for sense."""
    sections = (values.get(name) for name in ("admin", "server"))
    admin, server = (section if isinstance(section, dict) else {} for section in sections)
    if admin.get("listen"):
        host, _, port = str(admin["listen"]).rpartition(":")
    else:
        host, port = str(server.get("host") or "127.0.0.1"), str(server.get("port") or DEFAULT_PORT)
    host = _REACHED_AT.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read(path: Path | None, environ: Mapping[str, str]) -> Document:
    """The file's values, see `parse`; no values for no file. Raises ConfigurationError for one that cannot be read."""
    if path is None:
        return Document("no configuration file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(Problem(str(path), None, f"cannot be read: {exc.strerror}")) from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(Problem(str(path), None, "is not UTF-8 text")) from exc
    return parse(text, str(path), environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Document:
    """The file's values with variables put in, and the problems found so far: repeated keys, variables not set.

    Raises ConfigurationError for what is no YAML mapping at all.
    """
    document = Document(source)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else None
        reason = " ".join(filter(None, (exc.context, exc.problem)))
        raise ConfigurationError(Problem(source, line, f"no valid YAML: {reason}")) from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(Problem(source, None, f"no valid YAML: {exc}")) from exc
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(Problem(source, 1, "should be a mapping of fields, such as `server:`"))
    if root is not None:
        document.values = _Reader(document, environ).mapping(root, ())
    return document


@dataclass(frozen=True, slots=True)
class _Reader:
    """Walks YAML's nodes, noting lines and problems in `document`."""

    document: Document
    environ: Mapping[str, str]

    def value(self, node: yaml.Node, path: FieldPath) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _MAX_DEPTH:  # an anchor may contain itself
            self.document.problems.append(self.document.problem(path, "nested too deeply"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag == _NULL_TAG:
            return None
        self.document.written[path] = node.value
        return self.substituted(node.value, path)

    def mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            place = (*path, name)
            if name in values:
                first, line = self.document.lines[place], key.start_mark.line + 1
                repeated = Problem(self.document.source, line, f"{dotted(place)}: repeats line {first}")
                self.document.problems.append(repeated)
                continue
            self.document.lines[place] = key.start_mark.line + 1
            values[name] = self.value(value, place)
        return values

    def substituted(self, text: str, path: FieldPath) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[0].startswith("$$"):
                return match[0][1:]
            value = self.environ.get(match["name"]) or match["default"]
            if value is None:
                message = f"the environment variable {match['name']} is not set"
                self.document.problems.append(self.document.problem(path, message))
                self.document.unset.add(path)
            return value or ""

        return _VARIABLE.sub(replacement, text)
