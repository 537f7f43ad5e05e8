"""The Compose files: valid, in step with the settings and the image, and the application really sends."""

import functools
import ipaddress
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.settings import loading
from smtp2cf.settings.units import seconds
from tests.support.bridge import Bridge
from tests.support.needs import needs

COMPOSE = Path(__file__).parents[2] / "deploy/compose"
PHPMAILER = "/usr/share/php/libphp-phpmailer/autoload.php"
VARIANTS = [
    ("compose.yaml",),
    ("compose.yaml", "compose.cloudflare.yaml"),
    ("compose.yaml", "compose.postgres.yaml"),
    ("compose.yaml", "compose.postgres.yaml", "compose.cloudflare.yaml"),
]
REPLACED = {"command", "entrypoint", "test"}
"""Lists that another file replaces; it adds to all others."""


def merged(*names: str) -> dict[str, Any]:
    """What `docker compose -f … -f …` makes of the files."""
    yaml = pytest.importorskip("yaml", reason="not installed: yaml")
    return functools.reduce(_merge, (yaml.safe_load((COMPOSE / name).read_text("utf-8")) for name in names))


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {key: _merged(key, below.get(key), value) for key, value in above.items()}


def _merged(key: str, below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return _merge(below, above)
    return below + above if isinstance(below, list) and key not in REPLACED else above


each_variant = pytest.mark.parametrize("names", VARIANTS, ids="+".join)


@each_variant
def test_it_is_valid_by_the_specification(names: tuple[str, ...]) -> None:
    specification = pytest.importorskip("compose_spec", reason="not installed: compose-spec").PyCompose
    specification.from_yaml(json.dumps(merged(*names))).validate()
    with pytest.raises(ValueError, match="stop_grace_perod"):
        specification.from_yaml("services: {a: {image: b, stop_grace_perod: 1s}}").validate()


@each_variant
def test_the_bridge_starts_with_its_settings(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compose = merged(*names)
    for name, content in (("api_token", "token"), ("spool_url", "postgresql://smtp2cf:p@postgres/smtp2cf")):
        (tmp_path / name).write_text(content)
    service = compose["services"]["smtp2cf"]
    for variable in [name for name in os.environ if name.startswith("SMTP2CF_")]:
        monkeypatch.delenv(variable)
    for variable, value in service["environment"].items():
        given = re.sub(r"\$\{\w+:\?[^}]*\}", "0123", value).replace("/run/secrets", str(tmp_path))
        monkeypatch.setenv(variable, given)
    assert loading.unknown_variables() == []
    settings = loading.load()
    (subnet,) = (pool["subnet"] for pool in compose["networks"]["mail"]["ipam"]["config"])
    assert ipaddress.ip_network(subnet) in settings.allow_networks
    assert all(network.is_private for network in settings.allow_networks)
    assert seconds(service["stop_grace_period"]) > settings.drain_timeout
    assert (settings.account_id == "0123") == ("--sandbox" not in service["command"])
    assert settings.spool_url.get_secret_value().startswith("postgresql:") == (
        "postgres" in compose["services"]
    )
    named = {
        Path(value).name for value in service["environment"].values() if value.startswith("/run/secrets/")
    }
    assert named == set(service.get("secrets", []))


def test_it_is_as_the_image_says() -> None:
    service = merged("compose.yaml")["services"]["smtp2cf"]
    dockerfile = (COMPOSE.parents[1] / "Dockerfile").read_text(encoding="utf-8")
    (check,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])", dockerfile)
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(check)]
    (volume,) = json.loads(re.findall(r"^VOLUME (.*)", dockerfile, re.MULTILINE)[0])
    assert [mounted.partition(":")[2] for mounted in service["volumes"]] == [volume]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_application_uses_settings_of_sendmail_and_files_that_are_there() -> None:
    app = merged("compose.yaml")["services"]["app"]
    ours = {name.removeprefix("SMTP2CF_SENDMAIL_") for name in app["environment"] if "SMTP2CF" in name}
    assert ours <= set(loading.SENDMAIL_NAMES)
    assert (COMPOSE / app["build"]["context"] / app["build"]["dockerfile"]).is_file()
    assert all((COMPOSE / volume.partition(":")[0]).is_file() for volume in app["volumes"])


@needs("php", PHPMAILER)
def test_the_application_sends_in_both_ways(bridge: Bridge) -> None:
    environment = {
        **os.environ,
        **bridge.env,
        "SMTP2CF_SENDMAIL_DOMAIN": "example.com",
        "SMTP_HOST": bridge.smtp_host,
        "SMTP_PORT": str(bridge.smtp_port),
    }
    sendmail = f"sendmail_path={sys.executable} -m smtp2cf.sendmail -t -i"
    done = subprocess.run(
        ["php", "-d", sendmail, COMPOSE / "app/index.php"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "mail(): sent\nSMTP: sent\n", done.stderr
    sent = b"".join(message["mime_message"] for message in bridge.messages())
    assert re.findall(rb"(?mi)^Subject: (.*)\r", sent) == [b"Sent with mail()", b"Sent over SMTP"]
