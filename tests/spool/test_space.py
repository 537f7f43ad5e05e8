"""When there is too little room for more mail, and when there is enough again."""

from pathlib import Path

import pytest

from smtp2cf.spool.disk_space import LOOK_EVERY, Space

MIB = 2**20


class Disk:
    """Numbers in place of a disk and a clock."""

    def __init__(self) -> None:
        self.free = 0
        self.now = 0.0
        self.looks = 0

    def look(self, _: Path) -> int:
        self.looks += 1
        return self.free


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def space(disk: Disk) -> Space:
    return Space(Path("/spool"), 64 * MIB, on_disk=disk.look, clock=lambda: disk.now)


@pytest.mark.parametrize(
    ("on_disk", "inside", "refused"),
    [
        (64 * MIB, 0, False),
        (64 * MIB - 1, 0, True),
        (0, 0, True),
        (0, 64 * MIB, False),
        (32 * MIB, 32 * MIB, False),
        (32 * MIB, 32 * MIB - 1, True),
    ],
)
def test_what_is_free_counts_outside_and_inside(
    disk: Disk, space: Space, on_disk: int, inside: int, refused: bool
) -> None:
    disk.free, space.inside = on_disk, inside
    assert (space.refusal() is not None) is refused


def test_the_reply_says_how_much_there_is_and_how_much_there_must_be(disk: Disk, space: Space) -> None:
    disk.free = 12 * MIB
    refusal = space.refusal()
    assert refusal is not None
    assert str(refusal.reply) == (
        "452 4.3.1 the spool takes no more mail: only 12.0 MiB are free in /spool, and 64.0 MiB must stay"
        " free (SMTP2CF_SPOOL_MIN_FREE)"
    )


def test_a_little_more_than_the_least_has_to_be_free_again(disk: Disk, space: Space) -> None:
    assert space.refusal() is not None
    for free, refused in ((64 * MIB, True), (68 * MIB, False), (64 * MIB, False), (63 * MIB, True)):
        disk.free = free
        disk.now += 1
        assert (space.refusal() is not None) is refused, free


def test_the_disk_is_not_looked_at_for_every_message(disk: Disk, space: Space) -> None:
    for _ in range(1000):
        space.refusal()
        disk.now += LOOK_EVERY / 100
    assert disk.looks <= 11


def test_a_disk_that_cannot_be_looked_at_changes_nothing(disk: Disk, space: Space, tmp_path: Path) -> None:
    assert Space(tmp_path / "away", 64 * MIB).refusal() is None


def test_a_spent_reserve_refuses_mail_until_it_is_there_again(disk: Disk, space: Space) -> None:
    disk.free, space.exhausted = 1000 * MIB, True
    assert "reserve is not restored yet" in str(space.refusal().reply)  # type: ignore[union-attr]
    space.exhausted = False
    disk.now += 1
    assert space.refusal() is None
