"""The project's own messages, and those of the folder that SMTP2CF_TEST_CORPUS names, if it is set.

Every message of our own ends with CRLF or is empty, so that SMTP can carry it as it is. Big ones are
built in memory.

    from tests.corpus import CORPUS, corpus, more_messages, is_verbatim
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.corpus import attachments, charsets, edges, fields
from tests.corpus.sample import Sample

__all__ = ["CORPUS", "Sample", "corpus", "is_verbatim", "more_messages", "samples"]

MORE = os.environ.get("SMTP2CF_TEST_CORPUS", "")
"""A folder of further messages, in files named *.eml."""


@cache
def samples() -> tuple[Sample, ...]:
    """All messages of the project, with what readers should find in those that are converted."""
    everything = (*charsets.samples(), *fields.samples(), *attachments.samples(), *edges.samples())
    names = [sample.name for sample in everything]
    assert len(set(names)) == len(names)
    return everything


def corpus() -> list[tuple[str, bytes]]:
    """(name, message) of all messages of the project."""
    return [(sample.name, sample.message) for sample in samples()]


def more_messages() -> Iterator[tuple[str, bytes]]:
    """(name, message) of the further messages; none where SMTP2CF_TEST_CORPUS isn't set."""
    if not MORE:
        return
    folder = Path(MORE)
    files = sorted(folder.rglob("*.eml"))
    assert files, f"SMTP2CF_TEST_CORPUS={MORE} holds no *.eml file"
    for path in files:
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def is_verbatim(message: bytes) -> bool:
    """Has it to come out of the bridge as it went in: UTF-8, all line ends CRLF, the last one too?"""
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    without_line_ends = message.replace(b"\r\n", b"")
    return (
        b"\r" not in without_line_ends and b"\n" not in without_line_ends and message[-2:] in (b"", b"\r\n")
    )


CORPUS = corpus()
