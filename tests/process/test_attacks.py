"""Attacks on a bridge in a process of its own: what they cost stays small, others are served meanwhile, and
nothing is left of them. The full ones, with a table of figures: `python -m benchmarks.attacks`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.attacks.attacks import ATTACKS, Planned
from benchmarks.attacks.measure import measure
from benchmarks.attacks.target import Target, started

MEMORY = 40.0
"""MB above what an idle bridge has that none of the small attacks may come to, without MAX_MESSAGE_MEMORY."""
PATIENCE = 20_000.0
"""Milliseconds within which an ordinary message is through even on a slow machine that has other work."""
LINES = 80
"""Log lines of an attack that comes with many words, of which each may have ten."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A bridge with the settings there are by default, for several attacks."""
    with started(tmp_path_factory.mktemp("attacks") / "bridge", {}) as found:
        yield found


def _attack(attack: Planned, target: Target) -> None:
    cost = measure(attack, attack.quick, target, settling=0)
    print(f"{attack.name}: {cost}")
    messages = 64 if "MAX_MESSAGE_MEMORY" in attack.settings else 0
    assert cost.peak < cost.before + MEMORY + messages
    assert cost.p99 < PATIENCE
    assert cost.lines <= LINES


@pytest.mark.parametrize("attack", [one for one in ATTACKS if not one.settings], ids=lambda one: one.name)
def test_an_attack_costs_little(target: Target, attack: Planned) -> None:
    _attack(attack, target)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [one for one in ATTACKS if one.settings], ids=lambda one: one.name)
def test_an_attack_on_other_settings_costs_little(tmp_path: Path, attack: Planned) -> None:
    with started(tmp_path / "bridge", attack.settings) as target:
        _attack(attack, target)
