"""Builds the image, once a run, from this checkout and whatever base image there is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.container import Image, buildah

ROOT = Path(__file__).parents[2]
LOCAL_BASE = "localhost/python-slim"
VERSION, REVISION = "9.8.7", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def base() -> str:
    """A slim image with Python: the one SMTP2CF_TEST_BASE names, or LOCAL_BASE where it has been made."""
    if named := os.environ.get("SMTP2CF_TEST_BASE"):
        return named
    if not buildah("images", "--quiet", "--filter", f"reference={LOCAL_BASE}"):
        pytest.skip(f"not installed: {LOCAL_BASE} (SMTP2CF_TEST_BASE names another base image)")
    return LOCAL_BASE


@pytest.fixture(scope="session")
def image(base: str) -> Iterator[Image]:
    """The image of this checkout; its containers find no shell."""
    name = f"localhost/smtp2cf-test-{os.getpid()}"
    arguments = (f"BASE={base}", f"VERSION={VERSION}", f"REVISION={REVISION}")
    options = [f"--build-arg={argument}" for argument in arguments]
    with contextlib.ExitStack() as undo:
        buildah("bud", "--quiet", "--format=docker", f"--tag={name}", *options, str(ROOT))
        undo.callback(buildah, "rmi", name)
        working = buildah("from", name)
        undo.callback(buildah, "rm", working)
        image = Image(name, Path(buildah("mount", working)))
        for shell in ("sh", "bash", "dash"):
            (image.root / "bin" / shell).unlink(missing_ok=True)
        yield image
