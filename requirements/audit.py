"""`make audit`: known vulnerabilities of what requirements/*.txt pin, by pip-audit, from PyPI's database.

Exits 1 where one is known. Where the database can't be reached, or knows nothing of a package, it says so by
name and exits 0: no network is no vulnerability, and no reason to let a release wait.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINNED = ("dev.txt", "build.txt", "audit.txt", "fuzz.txt")
"""dev.txt has everything of image.txt in it."""


def main() -> int:
    reports = [audit(HERE / name) for name in sys.argv[1:] or PINNED]
    packages = {
        (package["name"], package.get("version", "")): package for report in reports for package in report
    }
    skipped = sorted(name for (name, _), package in packages.items() if "skip_reason" in package)
    if skipped:
        which = "any package" if len(skipped) == len(packages) else ", ".join(skipped)
        print(f"pip-audit: PyPI's vulnerability database says nothing here of {which}")
    found = [
        f"{name} {version}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'no release'}"
        for (name, version), package in packages.items()
        for known in package.get("vulns", [])
    ]
    print(
        "\n".join(found) or f"pip-audit: nothing known in {len(packages) - len(skipped)} packages asked about"
    )
    return 1 if found else 0


def audit(requirements: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package of a file; nothing where it could not ask."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner=off",
    ]
    done = subprocess.run(
        [*command, "--format=json", "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]
        print(f"pip-audit: PyPI's vulnerability database can't be asked about {requirements.name}: {why}")
        return []
    return packages


if __name__ == "__main__":
    sys.exit(main())
