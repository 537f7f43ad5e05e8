"""The tables and lines of the report, Markdown that reads as plain text too."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.contenders import Contender
from benchmarks.load import Work
from benchmarks.measure import Compared, Crowd, Start
from benchmarks.spool import FEW, MANY, Full, Rates

TIMES = "\N{MULTIPLICATION SIGN}"
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}"

CROWD_RATE = 800
CROWD_MEMORY = 200
IDLE_MEMORY = 75
READY = 1.2
SPOOL_RATIO = 0.8
SPOOL_MEMORY = 30
LISTED = 1.0


def table(compared: Compared) -> str:
    """One row for each kind of work: messages a second, then the subject's ratios beside their targets.

    Both are medians over the rounds. A ratio is taken within a round and then the median of the ratios,
    so that a machine that is busy for a while does not tell in it.
    """
    comparison = compared.comparison
    ran = {name for _, name in compared.rates}
    contenders = [one for one in comparison.contenders if one.name in ran]
    references = [one for one in contenders if one.name != comparison.subject]
    if len(references) == len(contenders):
        references = []
    head = ["messages a second", *(one.title for one in contenders)]
    head += [f"{TIMES} {one.title.split()[0]}" for one in references]
    rows = [_row(compared, work, contenders, references) for work in comparison.works]
    lines = [f"### {comparison.title}", "", *_aligned([head, *rows])]
    lines += [f"\nskipped: {title}: {reason}" for title, reason in compared.skipped.items()]
    return "\n".join(lines)


def _row(
    compared: Compared, work: Work, contenders: Sequence[Contender], references: Sequence[Contender]
) -> list[str]:
    rates = {one.name: compared.rates[work.name, one.name] for one in contenders}
    cells = [work.name, *(f"{statistics.median(rates[one.name]):,.0f}" for one in contenders)]
    for one in references:
        subject = rates[compared.comparison.subject]
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(subject, rates[one.name], strict=True)
        )
        target = work.targets.get(one.name)
        aim = f" ({AT_LEAST} {target:g}{'' if ratio >= target else ' missed'})" if target else ""
        cells.append(f"{ratio:.2f} {TIMES}{aim}")
    return cells


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, its columns as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield " | ".join([f"| {first}", *(cell.strip().rjust(len(cell)) for cell in others)]) + " |"
        if number == 0:
            yield "|".join(["|" + "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"


def spool_lines(rates: Mapping[str, Rates], full: Full | None) -> list[str]:
    """The spool with a hundred thousand messages in it, beside its targets."""
    lines = [f"### The spool, {MANY:,} messages waiting", ""]
    for name, one in rates.items():
        for what, rate, ratio in (("kept", one.put, one.put_ratio), ("claimed", one.claim, one.claim_ratio)):
            lines.append(
                f"- {name}: {rate:,.0f} messages a second {what}, {ratio:.2f} {TIMES} the rate with {FEW:,}"
                f" (target {SPOOL_RATIO}: {_met(ratio >= SPOOL_RATIO)})"
            )
    if full is not None:
        more = full.memory - full.idle
        lines.append(
            f"- memory: {full.memory:.0f} MB, {more:+.0f} MB to idle"
            f" (target under {SPOOL_MEMORY}: {_met(more < SPOOL_MEMORY)})"
        )
        lines.append(
            f"- queue list begins after {full.listed:.2f} s (target {LISTED}: {_met(full.listed <= LISTED)})"
        )
    return lines


def _met(met: bool) -> str:
    return "met" if met else "missed"


def crowd_lines(crowd: Crowd) -> list[str]:
    """What came of the crowd, beside its targets."""
    rate, peak = crowd.rate, crowd.peak
    return [
        f"- {crowd.sessions:,} sessions at once, the API takes {crowd.delay:g} s for each message:",
        f"  - {rate:,.0f} messages a second after ramp-up (target {CROWD_RATE}: {_met(rate >= CROWD_RATE)})",
        f"  - lost of {crowd.messages:,}: 0",
        f"  - memory at the peak: {peak:.0f} MB (target under {CROWD_MEMORY}: {_met(peak < CROWD_MEMORY)})",
    ]


def start_lines(start: Start) -> list[str]:
    """What came of the starts, beside their targets."""
    idle, ready = start.idle, start.ready
    return [
        f"- memory when idle: {idle:.0f} MB (target under {IDLE_MEMORY}: {_met(idle < IDLE_MEMORY)})",
        f"- ready {ready:.2f} s after its start (target {READY}: {_met(ready <= READY)})",
    ]
