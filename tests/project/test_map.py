"""tests/README.md is a map: every folder of tests is on it, and every file it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
README = (TESTS / "README.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([a-z]+/(?:[\w*]+\.py|fixtures/)?)`", README)


def test_every_file_on_it_is_there() -> None:
    assert len(NAMED) > 50
    assert [name for name in NAMED if not list(TESTS.glob(name))] == []


def test_every_folder_is_on_it() -> None:
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")} - {"support"}
    assert folders <= {name.partition("/")[0] for name in NAMED}
