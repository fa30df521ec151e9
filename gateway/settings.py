"""Settings: one YAML file and the environment, read and validated once, frozen; and what the supervisor found at boot.

`load()` is the way in. Times are seconds, sizes bytes, prices USD per million tokens as text.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from budgets.pricing import Price
from gateway.configuration import (
    DEFAULT_PORT,
    ConfigurationError,
    Document,
    FieldPath,
    Problem,
    configuration_path,
    data_dir,
    read,
)
from gateway.detection import OPENAI_URL, SANDBOX_PRICES, detected

SUPPORTED_KINDS = ("openai", "sandbox")
MIN_INSTALMENT = 32
"""Tokens; smaller ones would ask the ledger at every word."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECRET_FIELDS = ("api_key", "url", "admin_key", "pepper")
_VISIBLE = re.compile(r"[!-~]+")
"""ASCII without spaces and control characters."""

ProviderKind = Literal["openai", "anthropic", "azure", "litellm", "sandbox"]


def _supported(kind: ProviderKind) -> ProviderKind:
    if kind not in SUPPORTED_KINDS:
        raise ValueError(f"the kind {kind!r} is not supported yet by this version; use {' or '.join(SUPPORTED_KINDS)}")
    return kind


def _http_url(url: str) -> str:
    """Without a slash at the end. Raises ValueError, whose words do not repeat what may be a secret."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("should be an address that starts with http:// or https://")
    if not _VISIBLE.fullmatch(url):
        raise ValueError("should be an address of ASCII characters without spaces")
    if not _names_a_host(url):
        raise ValueError("should be an address with a host and, if any, a port from 1 to 65535")
    if "@" in urlsplit(url).netloc:
        raise ValueError("should be an address without a user and a password; the credential is the api_key")
    return url.rstrip("/")


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is none, or the brackets hold no address
        return False


def _credential(key: SecretStr) -> SecretStr:
    """Without the line's end that a mounted secret has. Raises ValueError for what no header can carry."""
    text = key.get_secret_value().strip()
    if not text:
        raise ValueError("is empty; leave it out where the provider needs none")
    if not (text.isascii() and text.isprintable()):
        raise ValueError("should be printable ASCII characters on one line")
    return SecretStr(text)


def _host_and_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("should be host:port, such as 127.0.0.1:4001")
    return address


def _number_in_text(value: object) -> object:
    """Choices between numbers get numbers: the file's scalars are text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _price(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts as given. Raises ValueError where they are no price."""
    for name in ("above", "tiers"):
        groups = parts.get(name, {})
        if not isinstance(groups, dict) or not all(isinstance(rates, dict) for rates in groups.values()):
            raise ValueError(f"{name}: should be a mapping of prices")
    parts = parts | {"free": parts["free"] == "true"} if "free" in parts else parts
    Price.from_usd_per_million(parts)
    return parts


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Url = Annotated[str, AfterValidator(_http_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_credential)]
Listener = Annotated[str, AfterValidator(_host_and_port)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Section):
    """The public listener."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    workers: Count = 1
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    write_timeout: Seconds = 30.0
    """For a caller that does not read to take what waits for it; at most half of `upstream.idle_timeout`."""
    max_header_bytes: Count = 65536
    max_body_bytes: Count = 10 * 2**20
    shutdown_timeout: Seconds = 30.0
    """How long open streams may go on after a stop was asked for."""


class RedisSettings(_Section):
    """The ledger's server; without `url` an embedded one is started."""

    url: Annotated[str | None, Field(repr=False)] = None
    deadline: Seconds = 0.25
    """How long a reserve may take before the ledger counts as away."""


class LedgerSettings(_Section):
    """How holds live and die."""

    lease: Seconds = 60.0
    """A hold not renewed for this long moves to suspense."""
    tombstone: Seconds = 21600.0
    """How long a closed attempt is remembered, so that a repeated settle changes nothing."""
    failover_window: Seconds = 120.0
    """How long a worker keeps what Redis has acknowledged, to send it again where a failover or a crash lost it."""
    key_cache: Seconds = 2.0
    output_cap: Count = 4096
    """Tokens: the output cap of a request that names none."""
    inject_output_cap: bool = True
    """False: such a request holds the model's maximum instead."""


class SuspenseSettings(_Section):
    """What becomes of attempts whose cost nobody knows."""

    accept_after: Seconds | Literal["never"] = 86400.0
    """How long they wait for `paymaster reconcile`; then our own estimate is booked, and the rest is free again."""


class UpstreamSettings(_Section):
    """Deadlines and bounds of calls to providers."""

    connect_timeout: Seconds = 5.0
    first_byte_timeout: Seconds = 120.0
    idle_timeout: Seconds = 60.0
    total_timeout: Seconds = 600.0
    drain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """How long an answer is read on for its usage after the caller is gone."""
    max_attempts: Count = 3
    max_response_bytes: Count = 64 * 2**20


class AdminSettings(_Section):
    """Where the admin API listens."""

    listen: Listener | None = None
    """An address of its own; None: on the public listener."""
    allow_public: bool = False
    """Whether it may be on a public listener that is not loopback."""

    @property
    def port(self) -> int | None:
        """That of `listen`, by which the two listeners are told apart."""
        return int(self.listen.rpartition(":")[2]) if self.listen else None


class MetricsSettings(_Section):
    """Bounds on what Prometheus has to store."""

    max_keys: Count = 500
    """Names of virtual keys that each worker shows as labels; later ones are `other`."""


class RefusalSettings(_Section):
    """How refusals look to callers."""

    budget_status: Annotated[Literal["auto", 402, 422, 429], BeforeValidator(_number_in_text)] = "auto"
    """`auto`: 402, and 429 for clients known to stop only on that."""


class SecretSettings(_Section):
    """Needed with a Redis of one's own; else made at the first start and kept in the data folder."""

    admin_key: SecretStr | None = None
    pepper: SecretStr | None = None


class ProviderSettings(_Section):
    """Somebody who serves models, and the credential to pay them with."""

    kind: Annotated[ProviderKind, AfterValidator(_supported)]
    base_url: Url | None = None
    """For kind `openai` OpenAI's own address unless given; for `sandbox` what its process listens on."""
    api_key: ApiKey | None = None
    on_disconnect: Literal["drain", "abort"] = "drain"
    """What happens to an answer that nobody waits for any more.

    `drain` reads on for at most `upstream.drain` seconds, so that its usage is seen; `abort` cuts at once, for
    providers that bill nothing then, or only what they delivered.
    """
    instalment: Annotated[int, Field(ge=MIN_INSTALMENT)] | None = None
    """Output tokens that are held for a stream at first, and added as it goes on; None: its longest answer is held.

    Only with `abort`, and only for providers that bill what they delivered, and deliver all that they bill.
    """


class ModelSettings(_Section):
    """One model at one provider. Its name in the configuration is what callers ask for."""

    provider: str
    model: str
    """The provider's name for it."""
    price: Annotated[dict[str, Any], AfterValidator(_price)] | None = None
    """USD per million tokens as `Price.from_usd_per_million` reads them; None: the price book's."""
    weight: Count = 1
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    encoding: str | None = None
    """The tiktoken encoding, where exact counting is wanted for a model the price book does not know."""


class RouteSettings(_Section):
    """A name callers use for several models: tiers from the cheapest to the strongest, each a list of models."""

    tiers: Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    default: str = "standard"
    """The tier of a request about whose difficulty there is no evidence."""
    quality: Annotated[float, Field(ge=0, le=1)] = 0.5
    """0 prefers the cheapest, 1 the strongest."""
    order: Literal["ordered", "weighted"] = "ordered"


class Settings(_Section):
    """Everything that can be set. The names are those of the file."""

    data_dir: Path
    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    ledger: LedgerSettings = LedgerSettings()
    suspense: SuspenseSettings = SuspenseSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    admin: AdminSettings = AdminSettings()
    metrics: MetricsSettings = MetricsSettings()
    refusals: RefusalSettings = RefusalSettings()
    secrets: SecretSettings = SecretSettings()
    providers: dict[str, ProviderSettings] = {}
    models: dict[str, ModelSettings] = {}
    routes: dict[str, RouteSettings] = {}

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox's process has to run."""
        return any(provider.kind == "sandbox" for provider in self.providers.values())


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the supervisor found out at boot and hands to its workers as one line of JSON."""

    redis_url: str = field(repr=False)
    admin_key: str = field(repr=False)
    pepper: str = field(repr=False)
    run_dir: Path
    metrics_dir: Path | None = None
    """Where the workers' metrics meet; None keeps them in memory."""
    sandbox_url: str | None = None
    sandbox_token: str | None = field(default=None, repr=False)
    worker: int = 0
    """The worker's index; a restarted worker has its predecessor's."""

    def to_json(self) -> str:
        """The one line; it holds secrets."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Runtime":
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        fields = json.loads(text)
        paths = {name: Path(fields[name]) for name in ("metrics_dir", "run_dir") if fields[name] is not None}
        return cls(**{**fields, **paths})


def load(
    path: Path | None,
    environ: Mapping[str, str],
    runtime: Runtime | None = None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """The settings of the file (see `configuration_path`), the environment and the command line, the later winning.

    A file without providers, models and routes gets those of `detected()`. `overrides` are sections, such as
    `{"server": {"port": 4001}}`. With `runtime` the settings name the servers that were started.
    Raises ConfigurationError, with all that is wrong.
    """
    document = read(configuration_path(path, environ), environ)
    values = document.values = {name: value for name, value in document.values.items() if value is not None}
    if not values.keys() & {"providers", "models", "routes"}:
        values.update(detected(environ))
    values["data_dir"] = str(data_dir(environ, values.get("data_dir")))
    for section, fields in (*_from_environment(environ).items(), *(overrides or {}).items()):
        kept = values.get(section)
        values[section] = {**(kept if isinstance(kept, dict) else {}), **fields}
    return _completed(_validated(document), runtime)


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The variables that stand for a field, as sections."""
    variables = {
        ("redis", "url"): "REDIS_URL",
        ("secrets", "admin_key"): "PAYMASTER_ADMIN_KEY",
        ("secrets", "pepper"): "PAYMASTER_PEPPER",
    }
    sections: dict[str, dict[str, str]] = {}
    for (section, name), variable in variables.items():
        if environ.get(variable):
            sections.setdefault(section, {})[name] = environ[variable]
    return sections


def _validated(document: Document) -> Settings:
    """Raises ConfigurationError with every problem of the text and the fields, or else every contradiction."""
    problems = list(document.problems)
    settings = None
    try:
        settings = Settings.model_validate(document.values)
    except ValidationError as exc:
        errors = (error for error in exc.errors(include_url=False) if error["loc"] not in document.unset)
        problems += [_problem(document, error) for error in errors]
    if settings is not None:
        problems += [document.problem(path, message) for path, message in _contradictions(settings)]
    if settings is None or problems:
        raise ConfigurationError(*sorted(problems, key=lambda problem: problem.line or 0))
    return settings


def _problem(document: Document, error: ErrorDetails) -> Problem:
    """One of pydantic's errors in our words, with the value as it was written unless it is a secret."""
    path: FieldPath = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return document.problem(path, f"no such field; {_nearest(str(path[-1]), _fields_at(path[:-1]))}")
    if error["type"] == "missing":
        return document.problem(path[:-1], f"{path[-1]!r} is missing")
    if error["type"] == "value_error":
        return document.problem(path, str(error["ctx"]["error"]))
    if error["type"] in ("model_type", "dict_type"):
        return document.problem(path, "should be a mapping of names to values")
    message = error["msg"].removeprefix("Input ")
    if path in document.written and path[-1] not in _SECRET_FIELDS:
        message += f", not {document.written[path]!r}"
    return document.problem(path, message)


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(known)}"


def _fields_at(path: FieldPath) -> list[str]:
    """The names of the fields of the section at `path`."""
    section: Any = Settings
    for part in path:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(part)].annotation
        else:  # dict[str, section]
            section = get_args(section)[-1]
    return list(section.model_fields)


def _contradictions(settings: Settings) -> Iterator[tuple[FieldPath, str]]:
    """What each field alone allows but all of them together do not."""
    if not settings.models:
        yield ("models",), "nothing to serve; name at least one model"
    for name, model in settings.models.items():
        if model.provider not in settings.providers:
            missing = f"no provider {model.provider!r}; {_nearest(model.provider, list(settings.providers))}"
            yield ("models", name, "provider"), missing
    for name, provider in settings.providers.items():
        if provider.kind == "sandbox" and (provider.base_url or provider.api_key):
            yield ("providers", name), "a sandbox is started by the gateway; it takes no base_url and no api_key"
        if provider.instalment is not None and provider.on_disconnect == "drain":
            reason = "an answer that is read on costs all of it, so all of it must be held"
            yield ("providers", name, "instalment"), f"needs on_disconnect: abort; {reason}"
    for name, route in settings.routes.items():
        yield from _route_contradictions(settings, name, route)
    yield from _listener_contradictions(settings.server, settings.admin)


def _listener_contradictions(server: ServerSettings, admin: AdminSettings) -> Iterator[tuple[FieldPath, str]]:
    if admin.port == 0:
        yield ("admin", "listen"), "port 0 would be another one at every start; name one"
    elif admin.port == server.port:
        yield ("admin", "listen"), f"{server.port} is server.port too; the admin API needs a port of its own"
    if server.host not in _LOOPBACK and not (admin.listen or admin.allow_public):
        reason = "is not loopback and would show the admin API; set admin.listen or admin.allow_public"
        yield ("server", "host"), f"{server.host} {reason}"


def _route_contradictions(settings: Settings, name: str, route: RouteSettings) -> Iterator[tuple[FieldPath, str]]:
    if name in settings.models:
        yield ("routes", name), "a model has this name too; rename one of them"
    if route.default not in route.tiers:
        yield ("routes", name, "default"), f"no tier {route.default!r}; {_nearest(route.default, list(route.tiers))}"
    for tier, deployments in route.tiers.items():
        for index, deployment in enumerate(deployments):
            if deployment not in settings.models:
                missing = f"no model {deployment!r}; {_nearest(deployment, list(settings.models))}"
                yield ("routes", name, "tiers", tier, index), missing


def _completed(settings: Settings, runtime: Runtime | None) -> Settings:
    """With the addresses of providers and servers and the sandbox's prices filled in."""
    providers = {name: _addressed(provider, runtime) for name, provider in settings.providers.items()}
    models = {
        name: model.model_copy(update={"price": SANDBOX_PRICES.get(model.model)})
        if model.price is None and providers[model.provider].kind == "sandbox"
        else model
        for name, model in settings.models.items()
    }
    update: dict[str, object] = {"providers": providers, "models": models}
    if runtime is not None:
        update["redis"] = settings.redis.model_copy(update={"url": runtime.redis_url})
    return settings.model_copy(update=update)


def _addressed(provider: ProviderSettings, runtime: Runtime | None) -> ProviderSettings:
    if provider.kind == "openai":
        return provider.model_copy(update={"base_url": provider.base_url or OPENAI_URL})
    if runtime is None or runtime.sandbox_token is None:
        return provider
    return provider.model_copy(update={"base_url": runtime.sandbox_url, "api_key": SecretStr(runtime.sandbox_token)})
