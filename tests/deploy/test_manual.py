"""The man pages and the shells' completion: up to date, free of errors, and they work."""

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from smtp2cf.sendmail.options import HELP
from tests.support.command import smtp2cf
from tests.support.needs import needs

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGES = sorted((DEPLOY / "man").iterdir())


def _generated() -> Mapping[str, str]:
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generated()


def test_they_are_what_the_commands_and_settings_say_now() -> None:
    there = {
        str(path.relative_to(DEPLOY)): path.read_text(encoding="utf-8")
        for room in ("man", "completion")
        for path in (DEPLOY / room).iterdir()
    }
    assert there == _generated(), "run 'make man'"


@needs("mandoc")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_mistakes(page: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_sendmails_page_has_every_option_that_its_help_has() -> None:
    page = (DEPLOY / "man/smtp2cf-sendmail.8").read_text(encoding="utf-8")
    options = set(re.findall(r"(?<=[ \[])-[a-zA-Z]+\b", HELP))
    assert len(options) > 10
    assert [option for option in options if rf"\fB\{option}" not in page] == []


@needs("bash")
def test_a_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["bash", "-n", DEPLOY / "completion/smtp2cf.bash"], check=True)
    asked = {"_SMTP2CF_COMPLETE": "complete_bash", "COMP_WORDS": "smtp2cf queue li", "COMP_CWORD": "2"}
    for variable, value in asked.items():
        monkeypatch.setenv(variable, value)
    assert smtp2cf().out == "list\n"
