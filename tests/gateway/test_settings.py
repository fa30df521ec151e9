"""Settings: what a file may say, what is refused and in which words."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from budgets.pricing import Price
from gateway.configuration import ConfigurationError
from gateway.detection import WELL_KNOWN
from gateway.settings import Runtime, Settings, load

REPOSITORY = Path(__file__).parents[2]

GOOD = """\
providers:
  acme:  {kind: openai, base_url: "http://127.0.0.1:8801/v1/", api_key: "${ACME_KEY}"}
models:
  small: {provider: acme, model: smollm2, price: {input: 0.10, output: "0.40"}}
  large: {provider: acme, model: big-1, price: {input: "3", output: "15", cache_read: "0.30"}}
routes:
  auto:  {tiers: {simple: [small], standard: [small], reasoning: [large]}, default: standard, quality: 0.5}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str, environ: Mapping[str, str] | None = None, runtime: Runtime | None = None) -> Settings:
    Path("paymaster.yaml").write_text(text)
    return load(None, environ if environ is not None else {"ACME_KEY": "secret-1"}, runtime)


def refusal(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text, environ)
    return str(caught.value).splitlines()


pytestmark = pytest.mark.usefixtures("folder")


def test_the_file_of_the_manual_is_understood() -> None:
    settings = loaded(GOOD)

    acme = settings.providers["acme"]
    assert acme.base_url == "http://127.0.0.1:8801/v1"
    assert acme.api_key is not None
    assert acme.api_key.get_secret_value() == "secret-1"
    assert settings.models["small"].price == {"input": "0.10", "output": "0.40"}
    assert settings.routes["auto"].tiers == {"simple": ["small"], "standard": ["small"], "reasoning": ["large"]}
    assert settings.server.port == 4000


def test_the_example_file_is_right_and_shows_the_defaults() -> None:
    environ = {"OPENAI_API_KEY": "sk-1"}

    example = load(REPOSITORY / "paymaster.example.yaml", environ)
    bare = load(None, environ)
    different = {"providers", "models", "routes"}
    assert example.model_dump(exclude=different) == bare.model_dump(exclude=different)


def test_every_setting_is_in_the_example_file() -> None:
    example = (REPOSITORY / "paymaster.example.yaml").read_text()

    sections = [field.annotation for field in Settings.model_fields.values()]
    names = [name for section in sections for name in getattr(section, "model_fields", {})]
    assert [name for name in names if f"{name}:" not in example] == []


def test_prices_are_kept_as_they_were_written() -> None:
    price = loaded(GOOD.replace("0.10", "0.100000"))

    assert price.models["small"].price == {"input": "0.100000", "output": "0.40"}


def test_an_unknown_field_is_refused_with_its_line_and_the_nearest_name() -> None:
    text = GOOD.replace("model: smollm2, price:", "model: smollm2, prise:")

    assert refusal(text) == ["paymaster.yaml:4: models.small.prise: no such field; did you mean 'price'?"]


def test_an_unknown_section_is_refused_with_the_nearest_name() -> None:
    assert refusal(GOOD + "sever: {port: 1}\n") == ["paymaster.yaml:8: sever: no such field; did you mean 'server'?"]


def test_a_field_like_no_other_is_refused_with_all_names() -> None:
    assert refusal(GOOD + "metrics: {zzz: 1}\n") == ["paymaster.yaml:8: metrics.zzz: no such field; known: max_keys"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("server: {port: 70000}", "server.port: should be less than or equal to 65535, not '70000'"),
        ("server: {workers: many}", "server.workers: should be a valid integer"),
        ("server: {body_timeout: 0}", "server.body_timeout: should be greater than 0, not '0'"),
        ("server: {body_timeout: .inf}", "server.body_timeout: should be a valid number"),
        ("server: 4000", "server: should be a mapping of names to values"),
        ("ledger: {inject_output_cap: perhaps}", "ledger.inject_output_cap: should be a valid boolean"),
        ("refusals: {budget_status: 403}", "refusals.budget_status: should be 'auto', 402, 422 or 429, not '403'"),
        ("admin: {listen: everywhere}", "admin.listen: should be host:port, such as 127.0.0.1:4001"),
        ("redis: {url: [a]}", "redis.url: should be a valid string"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(line: str, message: str) -> None:
    (told,) = refusal(f"{GOOD}{line}\n")

    assert told.startswith(f"paymaster.yaml:8: {message}")


def test_a_status_for_refusals_may_be_a_number() -> None:
    assert loaded(GOOD + "refusals: {budget_status: 422}\n").refusals.budget_status == 422


def test_a_missing_field_is_told_at_its_section() -> None:
    assert refusal(GOOD.replace("provider: acme, model: smollm2", "model: smollm2")) == [
        "paymaster.yaml:4: models.small: 'provider' is missing"
    ]


def test_all_mistakes_are_told_at_once_in_the_files_order() -> None:
    text = GOOD.replace("quality: 0.5", "quality: 2") + "server: {prot: 1}\nserver: {}\n"

    assert refusal(text, {}) == [
        "paymaster.yaml:2: providers.acme.api_key: the environment variable ACME_KEY is not set",
        "paymaster.yaml:7: routes.auto.quality: should be less than or equal to 1, not '2'",
        "paymaster.yaml:8: server.prot: no such field; did you mean 'port'?",
        "paymaster.yaml:9: server: repeats line 8",
    ]


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{input: 1}", "the price of output is missing"),
        ("{input: 1, output: 2, cash_read: 1}", "'cash_read' is no part of a price; the nearest is 'cache_read'"),
        ("{input: -1, output: 2}", "input: '-1' is not a price"),
        ("{input: cheap, output: 2}", "input: 'cheap' is not a price"),
        ("{input: 1, output: 2, tiers: 3}", "tiers: should be a mapping of prices"),
        ("{input: 1, output: 2, above: {200000: 3}}", "above: should be a mapping of prices"),
        ("{input: 0, output: 0}", "a price of zero must say that it is meant"),
        ("cheap", "should be a mapping of names to values"),
    ],
)
def test_what_is_no_price_is_refused(price: str, message: str) -> None:
    (told,) = refusal(GOOD.replace('{input: "3", output: "15", cache_read: "0.30"}', price))

    assert told.startswith(f"paymaster.yaml:5: models.large.price: {message}")


@pytest.mark.parametrize(
    "price",
    ["{free: true}", "{input: 1, output: 2, above: {200000: {input: 2}}, tiers: {batch: {input: 1, output: 1}}}"],
)
def test_a_price_may_be_free_or_have_steps_and_tiers(price: str) -> None:
    settings = loaded(GOOD.replace('{input: "3", output: "15", cache_read: "0.30"}', price))

    assert Price.from_usd_per_million(settings.models["large"].price or {})


@pytest.mark.parametrize("kind", ["anthropic", "azure", "litellm"])
def test_a_kind_that_does_not_work_yet_is_refused_clearly(kind: str) -> None:
    assert refusal(GOOD.replace("kind: openai", f"kind: {kind}")) == [
        f"paymaster.yaml:2: providers.acme.kind: the kind '{kind}' is not supported yet by this version; "
        "use openai or sandbox"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("provider: acme, model: big-1", "provider: acne, model: b",
         "5: models.large.provider: no provider 'acne'; did you mean 'acme'?"),
        ("reasoning: [large]", "reasoning: [small, larg]",
         "7: routes.auto.tiers.reasoning[1]: no model 'larg'; did you mean 'large'?"),
        ("default: standard", "default: normal",
         "7: routes.auto.default: no tier 'normal'; known: simple, standard, reasoning"),
        ("  auto:", "  small:", "7: routes.small: a model has this name too; rename one of them"),
        ("http://127", "127", "2: providers.acme.base_url: should be an address that starts with http:// or https://"),
        ("kind: openai", "kind: sandbox",
         "2: providers.acme: a sandbox is started by the gateway; it takes no base_url and no api_key"),
        ("kind: openai", "kind: openai, instalment: 500",
         "2: providers.acme.instalment: needs on_disconnect: abort; an answer that is read on costs all of it, so all "
         "of it must be held"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(old: str, new: str, message: str) -> None:
    assert refusal(GOOD.replace(old, new, 1)) == [f"paymaster.yaml:{message}"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:secret-1@127.0.0.1:8801", "without a user and a password; the credential is the api_key"),
        ("http://secret-1@[::1]", "without a user and a password; the credential is the api_key"),
        ("http://", "with a host and, if any, a port from 1 to 65535"),
        ("https://:8801/v1", "with a host and, if any, a port from 1 to 65535"),
        ("http://127.0.0.1:0/v1", "with a host and, if any, a port from 1 to 65535"),
        ("http://127.0.0.1:65536", "with a host and, if any, a port from 1 to 65535"),
        ("http://host:secret-1/v1", "with a host and, if any, a port from 1 to 65535"),
        ("http://[secret-1/v1", "with a host and, if any, a port from 1 to 65535"),
        ("http://[secret-1]/v1", "with a host and, if any, a port from 1 to 65535"),
        ("http://host name/v1", "of ASCII characters without spaces"),
        ("http://host/v1\\n", "of ASCII characters without spaces"),
        ("http://bücher.example/v1", "of ASCII characters without spaces"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_without_repeating_it(url: str, message: str) -> None:
    assert refusal(GOOD.replace("http://127.0.0.1:8801/v1/", url)) == [
        f"paymaster.yaml:2: providers.acme.base_url: should be an address {message}"
    ]


@pytest.mark.parametrize("url", ["http://localhost", "https://[::1]:8801/v1", "http://h.example:65535/a/b"])
def test_an_address_is_taken_as_it_is(url: str) -> None:
    assert loaded(GOOD.replace("http://127.0.0.1:8801/v1/", url)).providers["acme"].base_url == url


def test_a_key_from_a_mounted_secret_loses_the_lines_end() -> None:
    key = loaded(GOOD, {"ACME_KEY": " secret-1\r\n"}).providers["acme"].api_key

    assert key is not None
    assert key.get_secret_value() == "secret-1"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("\n", "is empty; leave it out where the provider needs none"),
        ("secret-1\nsecret-2", "should be printable ASCII characters on one line"),
        ("secret-…", "should be printable ASCII characters on one line"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_unshown(key: str, message: str) -> None:
    assert refusal(GOOD, {"ACME_KEY": key}) == [f"paymaster.yaml:2: providers.acme.api_key: {message}"]


def test_a_provider_may_have_answers_cut_that_nobody_waits_for() -> None:
    assert loaded(GOOD).providers["acme"].on_disconnect == "drain"
    assert (
        loaded(GOOD.replace("kind: openai", "kind: openai, on_disconnect: abort")).providers["acme"].on_disconnect
        == "abort"
    )


def test_streams_may_be_held_in_instalments_of_a_sensible_size() -> None:
    cut = GOOD.replace("kind: openai", "kind: openai, on_disconnect: abort, instalment: 32")

    assert (loaded(GOOD).providers["acme"].instalment, loaded(cut).providers["acme"].instalment) == (None, 32)
    (told,) = refusal(cut.replace("instalment: 32", "instalment: 31"))
    assert "providers.acme.instalment: should be greater than or equal to 32, not '31'" in told


def test_nothing_to_serve_is_refused() -> None:
    assert refusal("providers: {}\n") == ["paymaster.yaml: models: nothing to serve; name at least one model"]


def test_the_admin_api_is_not_shown_to_the_world_unasked() -> None:
    public = GOOD + "server: {host: 0.0.0.0}\n"

    (told,) = refusal(public)
    assert told.startswith("paymaster.yaml:8: server.host: 0.0.0.0 is not loopback and would show the admin API")
    assert loaded(public + "admin: {listen: '127.0.0.1:4001'}\n").server.host == "0.0.0.0"
    assert loaded(public + "admin: {allow_public: true}\n").admin.allow_public


def test_the_admin_api_has_a_port_of_its_own_or_none() -> None:
    assert refusal(GOOD + "admin: {listen: '127.0.0.2:4000'}\n") == [
        "paymaster.yaml:8: admin.listen: 4000 is server.port too; the admin API needs a port of its own"
    ]
    assert refusal(GOOD + "admin: {listen: '127.0.0.1:0'}\nserver: {port: 0}\n") == [
        "paymaster.yaml:8: admin.listen: port 0 would be another one at every start; name one"
    ]
    assert loaded(GOOD + "admin: {listen: '[::1]:4001'}\n").admin.port == 4001
    assert loaded(GOOD).admin.port is None


def test_the_command_line_wins_over_the_file_and_is_checked_too() -> None:
    Path("p.yaml").write_text(GOOD + "server: {port: 1, workers: 3}\n")

    server = load(Path("p.yaml"), {"ACME_KEY": "k"}, overrides={"server": {"port": 4001}}).server
    assert (server.port, server.workers) == (4001, 3)
    with pytest.raises(ConfigurationError, match="not loopback"):
        load(Path("p.yaml"), {"ACME_KEY": "k"}, overrides={"server": {"host": "::"}})


def test_the_environment_wins_over_the_file() -> None:
    text = GOOD + "redis: {url: redis://file, deadline: 1}\ndata_dir: /file\n"
    environ = {
        "ACME_KEY": "k",
        "REDIS_URL": "redis://env",
        "PAYMASTER_DATA_DIR": "/env",
        "PAYMASTER_ADMIN_KEY": "admin-1",
        "PAYMASTER_PEPPER": "pepper-1",
    }

    settings = loaded(text, environ)
    assert (settings.redis.url, settings.redis.deadline) == ("redis://env", 1)
    assert settings.data_dir == Path("/env")
    assert settings.secrets.admin_key is not None
    assert settings.secrets.admin_key.get_secret_value() == "admin-1"


def test_a_section_left_empty_is_as_if_left_out() -> None:
    assert loaded(GOOD + "server:\n  # port: 1\n").server.port == 4000


def test_without_a_file_the_sandbox_is_served_with_its_prices() -> None:
    settings = load(None, {})

    assert settings.uses_sandbox
    assert settings.models["exact"].price == {"input": "0", "output": "0", "request": "0.001"}
    assert settings.routes["auto"].default == "standard"


def test_a_file_that_names_no_providers_gets_those_of_the_environment() -> None:
    settings = loaded("server: {port: 1}\nmodels:\n", {"OPENAI_API_KEY": "sk-1"})

    assert settings.server.port == 1
    assert list(settings.providers) == ["openai"]
    assert not settings.uses_sandbox


@pytest.mark.parametrize("known", WELL_KNOWN, ids=lambda known: known.name)
def test_what_is_detected_is_a_valid_configuration(known: object) -> None:
    variable = getattr(known, "variable")  # noqa: B009

    assert len(load(None, {variable: "secret"}).routes["auto"].tiers) == 3


def test_a_price_of_ones_own_wins_over_the_sandboxs() -> None:
    settings = loaded("""\
        providers: {toys: {kind: sandbox}}
        models:
          dear: {provider: toys, model: sandbox-small, price: {input: 7, output: 8}}
          usual: {provider: toys, model: sandbox-small}
    """)

    assert settings.models["dear"].price == {"input": "7", "output": "8"}
    assert settings.models["usual"].price == {"input": "0.10", "output": "0.40"}


def test_openais_address_need_not_be_given() -> None:
    settings = loaded("providers: {o: {kind: openai}}\nmodels: {m: {provider: o, model: m}}\n")

    assert settings.providers["o"].base_url == "https://api.openai.com/v1"


def runtime() -> Runtime:
    return Runtime(
        redis_url="unix:///run/secret-redis",
        admin_key="secret-admin",
        pepper="secret-pepper",
        metrics_dir=Path("/m"),
        run_dir=Path("/r"),
        sandbox_url="http://127.0.0.1:9",
        sandbox_token="secret-token",
        worker=1,
    )


def test_a_worker_gets_the_servers_that_were_started() -> None:
    settings = load(None, {"REDIS_URL": "redis://other"}, runtime())

    assert settings.redis.url == "unix:///run/secret-redis"
    sandbox = settings.providers["sandbox"]
    assert sandbox.base_url == "http://127.0.0.1:9"
    assert sandbox.api_key is not None
    assert sandbox.api_key.get_secret_value() == "secret-token"


def test_a_runtime_survives_the_pipe_to_a_worker() -> None:
    line = runtime().to_json()

    assert "\n" not in line
    assert Runtime.from_json(line) == runtime()


def test_secrets_are_not_shown() -> None:
    environ = {"ACME_KEY": "secret-1", "REDIS_URL": "redis://:secret-2@h", "PAYMASTER_PEPPER": "secret-3"}

    assert "secret-" not in repr(loaded(GOOD, environ, None))
    assert "secret-" not in repr(runtime())


def test_a_refusal_shows_no_secret() -> None:
    text = GOOD.replace('api_key: "${ACME_KEY}"', "api_key: [secret-1]") + "redis: {url: {x: secret-2}}\n"

    assert all("secret" not in line for line in refusal(text))
