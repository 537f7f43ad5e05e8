"""What is released: the sdist, the image for two architectures, and the step of CI that tries the packages.

`make dist` builds the packages and tries them in empty environments, which takes a minute: .ci/run has it.
"""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def test_ci_builds_the_packages() -> None:
    assert "make sbom" in (ROOT / ".ci/run").read_text(encoding="utf-8")
