"""Tries the wheel as a user installs it, and says what is in such an installation.

`python deploy/package.py try WHEEL PYTHON …`: in an empty environment of each Python, with the `postgres`
extra, `smtp2cf check` finds nothing wrong with a sandbox in Cloudflare's place.
`python deploy/package.py sbom WHEEL FILE`: the software bill of materials (CycloneDX) of that environment.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "requirements/image.txt"


@contextlib.contextmanager
def installed(wheel: Path, python: str) -> Iterator[Path]:
    """An environment of that Python with the wheel and the pinned packages, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="smtp2cf-package-") as directory:
        place = Path(directory, "environment")
        run(python, "-m", "venv", "--without-pip", place)
        quietly = ("--quiet", "--disable-pip-version-check")
        pip = (sys.executable, "-m", "pip", *quietly, "--python", place / "bin/python")
        run(*pip, "install", "--require-hashes", "--only-binary", ":all:", "--requirement", PINS)
        # Takes nothing more from anywhere: what the wheel asks for has to be there.
        run(*pip, "install", "--no-index", f"smtp2cf[postgres] @ {wheel.resolve().as_uri()}")
        yield place


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command, and return what it printed. Ends this process if it fails."""
    done = subprocess.run(
        list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(place: Path) -> str:
    """What `smtp2cf check` says of a sandbox in that environment, away from this checkout."""
    program, state = place / "bin/smtp2cf", place.parent / "state"
    environ = {"PATH": os.environ["PATH"], "HOME": str(place.parent)}
    sandbox = [str(program), "sandbox", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(sandbox, env=environ, cwd=place, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().partition("=")[2]
            settings = {"API_BASE_URL": url, "ACCOUNT_ID": "a", "API_TOKEN": "t", "STATE_DIR": str(state)}
            settings |= {"SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"}
            settings |= {"SENDMAIL_DROP_DIR": str(place.parent / "drop")}
            environ |= {f"SMTP2CF_{name}": value for name, value in settings.items()}
            return run(program, "check", env=environ, cwd=place)
        finally:
            process.terminate()


def write_sbom(wheel: Path, file: Path) -> None:
    """Write the bill of materials of an installation with this Python, and see that it is whole."""
    with installed(wheel, sys.executable) as place:
        about = ("--pyproject", ROOT / "pyproject.toml", "--mc-type", "application", "--output-reproducible")
        tool = (sys.executable, "-m", "cyclonedx_py", "environment")
        run(*tool, *about, "--output-format", "JSON", "--output-file", file, place / "bin/python")
    listed = json.loads(file.read_text(encoding="utf-8"))["components"]
    found = {f"{_folded(each['name'])}=={each['version']}" for each in listed}
    pins = re.findall(r"^(\S+==\S+)( ; .*)?", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    if missing := {pin for pin, only_for in pins if not only_for} - found:
        sys.exit(f"{file} lacks {', '.join(sorted(missing))}")
    print(f"{file}: {len(found)} packages")


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Do what the arguments say."""
    what, wheel, *others = sys.argv[1:]
    if what == "sbom":
        write_sbom(Path(wheel), Path(others[0]))
        return
    for python in others:
        with installed(Path(wheel), python) as place:
            said = check(place).splitlines()
            print(f"{run(python, '--version').strip()}: smtp2cf check looked at {len(said)} things")


if __name__ == "__main__":
    main()
