"""The walk over a message's parts is one pass over its lines, whatever the nesting.

What is counted is how often a line is looked up among the boundaries: time would tell of the machine.
"""

from collections.abc import Callable

import pytest

from smtp2cf.message import header as headers
from smtp2cf.message.eightbit import is_utf8, to_utf8
from smtp2cf.message.mime import Delimiters
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from tests.message.shapes import SHAPES

LOOKS = 3
"""At a line: once where a header may end, once for the multipart it declares, once in the body."""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a line was looked up, and a field read."""
    count = [0, 0]
    level, fields = Delimiters.level, headers.fields_from

    def counted(self: Delimiters, text: bytes) -> tuple[int, bool] | None:
        count[0] += 1
        return level(self, text)

    def counted_fields(*arguments: object) -> object:
        for field in fields(*arguments):
            count[1] += 1
            yield field

    monkeypatch.setattr(Delimiters, "level", counted)
    monkeypatch.setattr(headers, "fields_from", counted_fields)
    return count


@pytest.mark.parametrize("size", [100_000, 400_000])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_no_line_is_looked_at_again_and_again(
    looks: list[int], shape: Callable[[int], bytes], size: int
) -> None:
    message = shape(size)
    lines = message.count(b"\n")
    clean = normalize_newlines(message)
    assert not has_bare_newlines(clean)
    assert looks[0] <= LOOKS * lines
    looks[:] = 0, 0
    assert is_utf8(to_utf8(clean))
    assert looks[0] <= LOOKS * lines
    assert looks[1] <= 2 * lines
