"""The versions that pyproject.toml admits are those that the tests run against, and requirements/ pins."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
ON_TRUST = {"argon2-cffi", "orjson", "platformdirs", "pydantic", "rich", "structlog", "cryptography", "yarl"}
"""Projects that break nothing in a minor version: their next one is admitted before it was tried."""


def admitted() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from map(Requirement, project["dependencies"])
    for extra in project["optional-dependencies"].values():
        yield from map(Requirement, extra)


def pinned(file: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    pins = [line.split()[0].partition("==") for line in lines if "==" in line.split(" ")[0]]
    return {name: Version(version) for name, _, version in pins}


@pytest.mark.parametrize("requirement", list(admitted()), ids=lambda requirement: requirement.name)
@pytest.mark.parametrize("file", ["image.txt", "dev.txt"])
def test_the_pinned_minor_version_is_the_newest_that_is_admitted(file: str, requirement: Requirement) -> None:
    version = pinned(file)[requirement.name]
    assert version in requirement.specifier
    next_minor, next_major = f"{version.major}.{version.minor + 1}", f"{version.major + 1}.0"
    assert next_major not in requirement.specifier
    assert (next_minor in requirement.specifier) == (requirement.name in ON_TRUST)


def test_what_is_tested_is_what_is_in_the_image() -> None:
    image, dev = pinned("image.txt"), pinned("dev.txt")
    assert {name: dev.get(name) for name in image} == image
