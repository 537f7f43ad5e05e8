"""The file beside an SQLite spool that notes outlive a killed process in."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.reply import Reply
from smtp2cf.spool import MEMORY, Answer, Memory, SpoolError, SpoolFull, notes_file
from smtp2cf.spool.notes_file import Noted, NotesFile, later, line_of, read_notes
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import abandon, renew

OK = Reply(250, "2.0.0", "sent: ✓ and \\ and \udce9\nand \0 more")
AT = 1000.0
DIGESTS = st.sampled_from([bytes([number]) * 24 for number in range(6)])
NOTES = st.builds(Noted, st.text(st.characters(exclude_characters="\n\0")), st.floats(AT, AT + MEMORY - 1))


class Kept:
    """Notes, and the file that is to say the same."""

    def __init__(self, path: Path) -> None:
        self.noted: dict[bytes, Noted] = {}
        self.file = NotesFile(path, lambda: (line_of(*each) for each in self.noted.items()))

    def note(self, digest: bytes, noted: Noted | None) -> None:
        if noted is None:
            self.noted.pop(digest, None)
        else:
            self.noted[digest] = noted
        self.file.append(line_of(digest, noted))


@given(
    changes=st.lists(st.tuples(DIGESTS, NOTES | st.none()), max_size=30),
    limit=st.sampled_from([100, 1 << 20]),
)
def test_it_says_at_any_moment_what_was_noted(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[bytes, Noted | None]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("notes") / "notes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notes_file, "LIMIT", limit)
        kept = Kept(path)
        for digest, noted in changes:
            kept.note(digest, noted)
            assert read_notes(path, AT - 1) == kept.noted
        kept.file.close()


@given(changes=st.lists(st.tuples(DIGESTS, NOTES | st.none()), min_size=1, max_size=8), data=st.data())
def test_a_line_that_is_cut_off_counts_for_nothing(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[bytes, Noted | None]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("notes") / "notes"
    kept = Kept(path)
    for change in changes[:-1]:
        kept.note(*change)
    before, start = dict(kept.noted), path.read_bytes().index(b"\0")
    kept.note(*changes[-1])
    end = path.read_bytes().index(b"\0")
    os.truncate(path, data.draw(st.integers(start, end - 1)))
    assert read_notes(path, AT - 1) == before
    kept.file.close()


def test_what_is_too_old_or_of_another_time_does_not_count(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "notes")
    for number, until in enumerate((AT - 1, AT, AT + 1, AT + MEMORY, AT + MEMORY + 1)):
        kept.note(bytes([number]), Noted("", until))
    assert list(read_notes(tmp_path / "notes", AT)) == [b"\2", b"\3"]
    kept.file.close()


@pytest.mark.parametrize(
    "text", [b"\0", b"\n\n", b"+\n", b"- zz\n+ 00 1\n+ 00 x y\n* 00 1 y\n", b"\xff\xfe\n", b"+ 00 nan \n"]
)
def test_what_is_no_note_is_passed_over(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(text + line_of(b"a", Noted("x", AT)))
    assert set(read_notes(path, AT - 1)) <= {b"a"}
    path.write_bytes(line_of(b"a", Noted("x", AT)) + text)
    assert read_notes(path, AT - 1) == {b"a": Noted("x", AT)}


def test_of_two_notes_the_later_counts() -> None:
    old, new = Noted("old", 1.0), Noted("new", 2.0)
    assert later({b"a": old, b"b": new}, {b"a": new, b"b": old, b"c": old}) == {
        b"a": new,
        b"b": new,
        b"c": old,
    }


def test_a_file_that_can_not_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(SpoolError, match=r"cannot open the spool's notes .*: Is a directory"):
        Kept(tmp_path / "notes")
    with pytest.raises(SpoolError, match=r"cannot read the spool's notes .*: Is a directory"):
        read_notes(tmp_path / "notes", AT)


def notes_beside(backend: Backend) -> Path:
    return backend.state_dir / "spool.sqlite3.notes"


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("pwrite", [no_room, lambda file, octets, at: len(octets) // 2])
async def test_what_there_was_no_room_for_is_written_later(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch, pwrite: object
) -> None:
    spool = await sqlite.open()
    await spool.recall(b"confirmed")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(SpoolFull):
            await spool.recall(b"no room")
        spool.forget(b"confirmed")
    await renew(spool)
    await abandon(spool)
    again = await sqlite.open(serve=True)
    assert await again.recall(b"no room", begin=False) == Memory(None)
    assert await again.recall(b"confirmed", begin=False) is None


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
async def test_a_file_that_goes_away_is_made_again(sqlite: Backend, what: str) -> None:
    spool = await sqlite.open()
    await spool.recall(b"x")
    path = notes_beside(sqlite)
    if what == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("away"))
    if what == "replaced":
        path.write_bytes(line_of(b"other", Noted("", 1e12)))
    await renew(spool)
    await abandon(spool)
    again = await sqlite.open(serve=True)
    assert await again.recall(b"x", begin=False) == Memory(None)
    assert await again.recall(b"other", begin=False) is None


async def test_a_killed_process_leaves_what_it_noted_and_what_it_put(sqlite: Backend) -> None:
    spool = await sqlite.open()
    for digest in (b"begun", b"answered", b"confirmed", b"put", b"put and answered"):
        await spool.recall(digest)
    spool.remember(b"answered", OK)
    spool.forget(b"confirmed")
    earlier = OK._replace(text="kept")
    await spool.put(
        new_mail(answer=Answer(b"put", earlier)), new_mail(answer=Answer(b"put and answered", earlier))
    )
    spool.remember(b"put and answered", OK)
    await spool.recall(b"last")  # which is written at once, with all that waits
    await abandon(spool)
    again = await sqlite.open(serve=True)
    found = {name: await again.recall(name, begin=False) for name in (b"begun", b"answered", b"put", b"last")}
    assert found == {
        b"begun": Memory(None),
        b"answered": Memory(OK),
        b"put": Memory(earlier),
        b"last": Memory(None),
    }
    assert await again.recall(b"put and answered", begin=False) == Memory(OK)
    assert await again.recall(b"confirmed", begin=False) is None


async def test_a_clean_end_leaves_the_database_all_that_an_older_version_looks_for(sqlite: Backend) -> None:
    spool = await sqlite.open()
    await spool.recall(b"begun")
    spool.remember(b"answered", OK)
    await sqlite.close(spool)
    assert notes_beside(sqlite).stat().st_size == 0
    connection = sqlite3.connect(sqlite.state_dir / "spool.sqlite3")
    digests = {digest for (digest,) in connection.execute("SELECT digest FROM memory")}
    connection.close()
    assert digests == {b"begun", b"answered"}


async def test_nothing_is_noted_in_a_spool_that_is_not_there(sqlite: Backend) -> None:
    spool = await sqlite.open()
    path = sqlite.state_dir / "spool.sqlite3"
    path.rename(path.with_name("away"))
    with pytest.raises(Exception, match="moved"):
        await spool.put(new_mail())
    with pytest.raises(Exception, match="moved"):
        await spool.recall(b"x")
