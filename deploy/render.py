"""Renders the Helm chart for those without Helm: deploy/kubernetes/relay.yaml and sidecar.yaml.

`python deploy/render.py DIRECTORY` writes them there; `make manifests` does so here. Uses Helm's own engine.
"""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm/smtp2cf"
KINDS = ("relay", "sidecar")
ORDER = ["NetworkPolicy", "PodDisruptionBudget", "Secret", "Service", "Deployment"]
"""What is there before what; all else comes after."""
HEAD = """\
# Generated from deploy/helm/smtp2cf and its ci/{kind}-values.yaml by `make manifests`. Put your account and
# token into the Secret, and the image's name into the Deployment.
"""


def rendered(values: Mapping[str, Any], release: str = "smtp2cf") -> list[str]:
    """The manifests for these values, one for each object. Raises HelmError."""
    files = _chart().render(values=dict(values), name=release, namespace="mail")
    texts = [text.strip() for name, text in files.items() if not name.endswith(("NOTES.txt", ".tpl"))]
    return sorted(filter(None, texts), key=_place)


@functools.cache
def _chart() -> Chart:
    return Chart.load(str(CHART))


def _place(text: str) -> tuple[int, str]:
    (kind,) = re.findall(r"^kind: (\w+)$", text, re.MULTILINE)
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)


def values_of(kind: str) -> dict[str, Any]:
    """The chart's example of this kind."""
    return yaml.safe_load((CHART / f"ci/{kind}-values.yaml").read_text(encoding="utf-8"))


def manifest(kind: str) -> str:
    """The text of deploy/kubernetes/KIND.yaml."""
    return HEAD.format(kind=kind) + "\n---\n".join(rendered(values_of(kind))) + "\n"


if __name__ == "__main__":
    for kind in KINDS:
        Path(sys.argv[1], f"{kind}.yaml").write_text(manifest(kind), encoding="utf-8")
