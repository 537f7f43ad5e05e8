"""Reads systemd's unit files, and what their system call filters let through. Blocks."""

import functools
import subprocess
from pathlib import Path

SYSTEMD = Path(__file__).parents[2] / "deploy/systemd"


def settings_of(unit: str, name: str) -> list[str]:
    """Each value that a unit file gives to a setting, in order."""
    lines = (SYSTEMD / unit).read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def allowed_calls(unit: str) -> set[str]:
    """The system calls that SystemCallFilter= leaves."""
    allowed: set[str] = set()
    for line in settings_of(unit, "SystemCallFilter"):
        named = {call for name in line.removeprefix("~").split() for call in _calls(name)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


@functools.cache
def _groups() -> dict[str, list[str]]:
    """What each of systemd's groups names."""
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.startswith("@"):
            groups[line] = members = []
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return groups


def _calls(name: str) -> set[str]:
    """A call by its name, or those of a group."""
    if not name.startswith("@"):
        return {name}
    return {call for member in _groups()[name] for call in _calls(member)}
