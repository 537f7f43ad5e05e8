"""What fuzzing found, and its seeds, once more through the same targets: `make fuzz` needs no test run."""

import itertools
import random
from pathlib import Path

import pytest

from fuzz.targets import CORPUS, TARGETS

INPUTS = [(name, file) for name in TARGETS for file in sorted((CORPUS / name).glob("*"))]
MUTANTS = 50
"""Inputs a target gets beside its corpus: its seeds with a few octets changed."""


@pytest.mark.parametrize(("target", "file"), INPUTS, ids=[f"{name}-{file.name}" for name, file in INPUTS])
def test_what_was_found_once_holds(target: str, file: Path) -> None:
    TARGETS[target](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_seed_and_holds_around_it(target: str) -> None:
    seeds = [file.read_bytes() for name, file in INPUTS if name == target]
    assert seeds
    chance = random.Random(target)
    for seed in itertools.islice(itertools.cycle(seeds), MUTANTS):
        TARGETS[target](_mutated(seed[:2000], chance))


def test_every_directory_of_the_corpus_has_a_target() -> None:
    assert {directory.name for directory in CORPUS.iterdir()} == set(TARGETS)


def _mutated(octets: bytes, chance: random.Random) -> bytes:
    changed = bytearray(octets)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        piece = chance.choice(
            [b"", b"\r\n", b".", b"\x1e", b"\0", b"\xff", b'"', bytes([chance.randrange(256)])]
        )
        changed[at : at + chance.randint(0, 3)] = piece
    return bytes(changed)
