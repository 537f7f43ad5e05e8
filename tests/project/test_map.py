"""Maps: tests/README.md has every folder of tests, and the files that it and docs/flow.md name are there."""

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


def test_every_file_that_the_walk_along_the_code_names_is_there() -> None:
    walk = (TESTS.parent / "docs/flow.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py|[a-z_]+/)`", walk)
    assert len(named) > 50
    assert [name for name in named if not (TESTS.parent / "smtp2cf" / name).exists()] == []
