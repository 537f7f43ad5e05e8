"""As given: the answer to rewritten mail, in the addresses that its client named. Pure."""

from collections.abc import Iterable

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.reply import Reply, few_in_words

NAMED_LIMIT = 3
"""Addresses that a reply names of each kind; the rest are counted."""


def as_given(envelope: Envelope, verdict: Verdict, outcomes: Outcomes) -> Verdict:
    """The answers by the client's own recipients, saying what the addresses became.

    verdict: the answers by forward path. outcomes: what became of each: a recipient that became several
    counts as the worst of them.
    """
    became: dict[str, list[str]] = {}
    for path in outcomes:
        for who in envelope.given_for(path):
            became.setdefault(who, []).append(path)
    replies: Outcomes = {}
    for who, paths in became.items():
        worst = max(paths, key=lambda path: _badness(outcomes[path]))
        replies[who] = _with(verdict.outcomes[worst], _changed(envelope, paths, [who]))
    given = [who for who, paths in became.items() if paths != [who]]
    to = [path for path in outcomes if path in envelope.given_forward_paths]
    return Verdict(_with(verdict.reply, _changed(envelope, to, given)), replies)


def _changed(envelope: Envelope, to: list[str], given: list[str]) -> str:
    said = []
    if envelope.given_reverse_path is not None:
        said.append(f"sent as <{envelope.reverse_path}> instead of <{envelope.given_reverse_path}>")
    if to != given:
        said.append(f"to {_brackets(to)} instead of {_brackets(given)}")
    return ", ".join(said)


def _with(reply: Reply, addition: str) -> Reply:
    return reply._replace(text=f"{reply.text} ({addition})") if addition else reply


def _brackets(addresses: Iterable[str]) -> str:
    return few_in_words([f"<{address}>" for address in addresses], NAMED_LIMIT)


def _badness(reply: Reply) -> int:
    return 2 if reply.permanent else int(reply.transient)
