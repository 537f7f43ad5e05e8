"""`make audit`: a known vulnerability fails it, a database out of reach is named and doesn't."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOUND = {"name": "a", "version": "1", "vulns": []}
HOLED = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (4)"}


def audited(directory: Path, pip_audit: str) -> tuple[int, str]:
    """The audit with this source in pip-audit's place."""
    (directory / "pip_audit.py").write_text(pip_audit)
    done = subprocess.run(
        [sys.executable, ROOT / "requirements" / "audit.py", "dev.txt"],
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SOUND], 0, "nothing known in 1 packages asked about"),
        ([SOUND, HOLED], 1, "b 2: PYSEC-1, mended in 3"),
        ([SOUND, UNKNOWN], 0, "says nothing here of c\n"),
        ([UNKNOWN], 0, "says nothing here of any package\n"),
    ],
    ids=["sound", "a vulnerability", "one it does not know", "it knows none"],
)
def test_what_pip_audit_finds(tmp_path: Path, packages: list[dict], status: int, said: str) -> None:
    code, out = audited(tmp_path, f"print({json.dumps(json.dumps({'dependencies': packages}))})")
    assert code == status
    assert said in out


def test_no_network_is_named_and_no_failure(tmp_path: Path) -> None:
    code, out = audited(tmp_path, "raise SystemExit('Could not connect to the vulnerability feed')")
    assert code == 0
    assert "can't be asked about dev.txt: Could not connect to the vulnerability feed" in out
    assert "nothing known in 0 packages" in out
