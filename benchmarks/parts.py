"""How long a message's parts take: `python -m benchmarks.parts` (a minute).

Messages made to be slow, in sizes that double: line ends made whole, then the conversion to UTF-8. Linear is
where the time for each MiB stays what it is; the last column says how much it grew from first to last.
"""

import time
from collections.abc import Callable

from smtp2cf.message.eightbit import to_utf8
from smtp2cf.message.newlines import normalize_newlines
from tests.message.shapes import SHAPES

MIB = 1 << 20
SIZES = (1, 2, 4, 8)
ROUNDS = 3


def main() -> None:
    """Print a line for each shape and step: milliseconds for each MiB, by size."""
    print(f"{'milliseconds for each MiB':62}" + "".join(f"{size:>6} MiB" for size in SIZES) + "   growth")
    for name, shape in SHAPES.items():
        messages = [shape(size * MIB) for size in SIZES]
        _report(f"{name}: line ends", normalize_newlines, messages)
        _report(f"{name}: UTF-8", to_utf8, [normalize_newlines(message) for message in messages])


def _report(name: str, step: Callable[[bytes], bytes], messages: list[bytes]) -> None:
    rates = [_seconds(step, message) * 1000 * MIB / len(message) for message in messages]
    print(f"{name:62}" + "".join(f"{rate:10.1f}" for rate in rates) + f"{rates[-1] / rates[0]:9.1f}")


def _seconds(step: Callable[[bytes], bytes], message: bytes) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step(message)
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
