"""Renders the Helm chart with many values, in a process of its own: Helm's engine brings Go's runtime."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/smtp2cf"
NEEDED = ("helm_python", "kubernetes_validate", "yaml")

_RENDER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import render, yaml
from helm_python import HelmError, lint
found = {}
for name, values in json.load(sys.stdin).items():
    try:
        found[name] = [yaml.load(text, yaml.CSafeLoader) for text in render.rendered(values)]
    except HelmError as error:
        found[name] = str(error)
report = {
    "rendered": found,
    "manifests": {kind: render.manifest(kind) for kind in render.KINDS},
    "lint": [lint(sys.argv[2], render.values_of(kind), strict=True) for kind in render.KINDS],
}
json.dump(report, sys.stdout)
"""

Rendered = list[dict[str, Any]] | str
"""Objects, or why there are none."""


def needed() -> pytest.MarkDecorator:
    """Skips where what make .venv/.deploy installs is not there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"not installed: {', '.join(missing)} (make .venv/.deploy)"
    )


def report(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What becomes of each case's values ("rendered"), the checked-in manifests, and what lint says."""
    command = [sys.executable, "-c", _RENDER, DEPLOY, CHART]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them, as Helm lays them."""
    found = dict(below)
    for key, value in above.items():
        here = found.get(key)
        found[key] = merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return found
