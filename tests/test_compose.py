"""The image and the compose file: what can be known of them without Docker."""

import re
from pathlib import Path
from typing import Any

import yaml

from gateway.detection import WELL_KNOWN
from gateway.settings import load

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_the_images_configuration_is_accepted(tmp_path: Path) -> None:
    written = re.search(r"COPY <<EOF \S+\n(.*?)EOF\n", DOCKERFILE, re.DOTALL)
    assert written is not None
    (tmp_path / "paymaster.yaml").write_text(written[1])

    settings = load(tmp_path / "paymaster.yaml", {"PAYMASTER_DATA_DIR": "/data"})

    assert settings.server.host == "0.0.0.0"
    assert settings.admin.listen == "127.0.0.1:4001"
    assert f"EXPOSE {settings.server.port}\n" in DOCKERFILE
    assert f"http://127.0.0.1:{settings.server.port}/healthz" in DOCKERFILE


def test_the_image_is_made_of_what_its_dockerfile_copies() -> None:
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from|<<)(.*) \S+$", DOCKERFILE, re.MULTILINE)

    assert {name for line in copied for name in line.split()} == allowed


def test_the_gateway_does_not_run_as_root() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["paymaster"]


def test_every_file_that_is_mounted_exists() -> None:
    for service in COMPOSE["services"].values():
        sources = [volume.split(":")[0] for volume in service["volumes"]]
        assert all((ROOT / source).exists() for source in sources if source.startswith("."))
        assert {source for source in sources if source[0] not in "./"} <= COMPOSE["volumes"].keys()


def test_every_gateway_has_a_data_folder_of_its_own_so_that_there_may_be_several() -> None:
    gateway = COMPOSE["services"]["gateway"]

    assert gateway["volumes"] == ["/data"]  # no name and no path before it: a new one for each container
    assert "VOLUME /data\n" in DOCKERFILE
    assert "container_name" not in gateway


def test_redis_keeps_everything_and_evicts_nothing() -> None:
    command = " ".join(COMPOSE["services"]["redis"]["command"])

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_secrets_come_from_the_environment_and_must_be_given() -> None:
    environment = COMPOSE["services"]["gateway"]["environment"]

    assert environment["PAYMASTER_ADMIN_KEY"].startswith("${PAYMASTER_ADMIN_KEY:?")
    assert environment["PAYMASTER_PEPPER"].startswith("${PAYMASTER_PEPPER:?")
    assert "REDIS_URL" in environment


def test_every_providers_key_is_passed_on() -> None:
    assert {provider.variable for provider in WELL_KNOWN} <= COMPOSE["services"]["gateway"]["environment"].keys()
