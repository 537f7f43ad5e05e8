"""What is released: the sdist, the image for two architectures, and the step of CI that tries the packages.

`make dist`, `make sbom` and `make deb` build and try the packages, which takes minutes: .ci/run has them.
"""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from smtp2cf import __version__

ROOT = Path(__file__).parents[2]
NOT_NAMED = {".gitignore", "pyproject.toml"}
"""hatchling adds them by itself."""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a checkout knows what belongs to it")
def test_the_sdist_has_whatever_the_repository_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name.partition("/")[0] for name in listed.splitlines()} - NOT_NAMED == included


def test_the_bake_file_builds_the_image_for_two_architectures() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="not installed: python-hcl2 (make .venv/.deploy)")
    with (ROOT / "deploy/docker-bake.hcl").open(encoding="utf-8") as file:
        bake = hcl2.load(file)
    targets = {name.strip('"'): target for block in bake["target"] for name, target in block.items()}
    platforms = {platform.strip('"') for platform in targets["image"]["platforms"]}
    assert platforms == {"linux/amd64", "linux/arm64"}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert set(targets["image"]["args"]) == arguments
    variables = {name.strip('"') for block in bake["variable"] for name in block}
    assert variables == {*arguments, "TAG"}


def test_debians_packages_are_of_this_version() -> None:
    changelog = (ROOT / "debian/changelog").read_text(encoding="utf-8")
    assert re.findall(r"^smtp2cf \(([^)]*)\)", changelog, re.MULTILINE)[0] == __version__


def test_ci_builds_and_tries_the_packages() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "make dist sbom deb" in ci
    assert "deploy/try_deb.sh dist" in ci
