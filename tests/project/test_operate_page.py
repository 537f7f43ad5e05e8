"""docs/operate.md against the code: every reply is in its table, and what it names is there."""

import re
from pathlib import Path

import pytest
import typer.main

import smtp2cf
from smtp2cf.cli.app import app
from smtp2cf.settings.secret_files import KINDS

CODE = Path(smtp2cf.__file__).parent
ROOT = CODE.parent
PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
ELSEWHERE = {"sandbox", "sendmail"}
"""Rooms whose replies are not the bridge's."""
WRITTEN = re.compile(r'\b([45]\d\d),\s*"([45]\.\d+\.\d+)"|["\']([45]\d\d) ([45]\.\d+\.\d+) ')


def replies() -> set[str]:
    """The code and enhanced status of every reply in the code."""
    sources = [path for path in CODE.rglob("*.py") if not ELSEWHERE & set(path.relative_to(CODE).parts)]
    found = [each for path in sources for each in WRITTEN.findall(path.read_text(encoding="utf-8"))]
    return {f"{code or text_code} {status or text_status}" for code, status, text_code, text_status in found}


def test_every_reply_has_its_row_and_no_row_is_invented() -> None:
    rows = re.findall(r"^\| ([45]\d\d [^|]*) \|", PAGE, re.MULTILINE)
    listed = [one for row in rows for one in row.split(", ")]
    assert sorted(listed) == sorted(replies())


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"SMTP2CF_[A-Z0-9_]+", PAGE))))
def test_every_setting_exists(setting: str) -> None:
    known = (ROOT / "config.example.env").read_text(encoding="utf-8")
    of_secrets = {f"SMTP2CF_{name}_file".upper() for name in KINDS}
    assert f"{setting}=" in known or setting in of_secrets


@pytest.mark.parametrize("command", sorted(set(re.findall(r"smtp2cf ([a-z][a-z-]+(?: [a-z]+)?)", PAGE))))
def test_every_command_exists(command: str) -> None:
    first, _, second = command.partition(" ")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert first in commands
    if hasattr(commands[first], "commands"):
        assert second in commands[first].commands


def test_every_alert_is_there() -> None:
    rules = (ROOT / "deploy/prometheus/smtp2cf.rules.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"Smtp2cf\w+", PAGE)) == set(re.findall(r"alert: (\w+)", rules))


def test_every_page_and_line_of_the_log_is_there() -> None:
    log = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    for page in re.findall(r"\]\((\w+\.md)", PAGE):
        assert (ROOT / "docs" / page).exists(), page
    for name in re.findall(r"`((?:mail|api|auth|token)\.[a-z_]+)`", PAGE):
        assert f"`{name}`" in log, name
