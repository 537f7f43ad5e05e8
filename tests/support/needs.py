"""Skips tests by name where a program they drive is not installed."""

import shutil
from pathlib import Path

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of the programs is missing: a command on PATH, or a file by its whole path."""
    missing = [name for name in programs if not _is_there(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def _is_there(name: str) -> bool:
    return Path(name).exists() if name.startswith("/") else shutil.which(name) is not None
