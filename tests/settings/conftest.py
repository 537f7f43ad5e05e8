"""A TOML file that is the bridge's own."""

import os
from pathlib import Path

import pytest

from smtp2cf.settings import loading
from smtp2cf.settings.fields import Settings, SettingsError


class Config:
    """A TOML file that is the bridge's, where nothing else is set."""

    def __init__(self, path: Path, environment: pytest.MonkeyPatch) -> None:
        self.path = path
        self.environment = environment

    def load(self, text: str, **variables: str) -> Settings:
        """The settings with this text in the file, and these variables in the environment."""
        self.path.write_text(text)
        for name, value in variables.items():
            self.environment.setenv(name, value)
        return loading.load()

    def error(self, text: str, **variables: str) -> str:
        """What is said about them, without the file's path."""
        with pytest.raises(SettingsError) as error:
            self.load(text, **variables)
        return str(error.value).replace(str(self.path), "FILE")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    for name in os.environ:
        if name.startswith(("SMTP2CF_", "CLOUDFLARE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SMTP2CF_CONFIG", str(tmp_path / "smtp2cf.toml"))
    return Config(tmp_path / "smtp2cf.toml", monkeypatch)
