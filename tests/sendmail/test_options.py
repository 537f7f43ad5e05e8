"""Every option that takes an argument takes it attached and separate, and takes nothing else."""

import pytest

from smtp2cf.sendmail.exit_codes import Failure
from smtp2cf.sendmail.options import Options, parse_arguments
from tests.support.each import each

WITH_ARGUMENT = {
    "A": "c", "B": "8BITMIME", "C": "/etc/mail/x.cf", "F": "Anna", "L": "tag", "N": "never",
    "O": "Option=value",
    "R": "hdrs", "V": "id", "X": "/tmp/log", "b": "m", "e": "m", "f": "a@example.org", "h": "3", "o": "em",
    "p": "SMTP:host", "r": "a@example.org",
}  # fmt: skip
"""docs/sendmail.md's options, each with an argument it may have."""
ATTACHED_ONLY = {"d": "0.1", "q": "30m"}
WITHOUT_ARGUMENT = "GUnmxEivt"


def read(*arguments: str) -> Options:
    return parse_arguments(["sendmail", *arguments])


@each("letter", WITH_ARGUMENT)
def test_argument_may_be_attached_or_separate(letter: str) -> None:
    argument = WITH_ARGUMENT[letter]
    attached = read(f"-{letter}{argument}", "b@example.net")
    separate = read(f"-{letter}", argument, "b@example.net")
    behind_others = read(f"-iv{letter}", argument, "b@example.net")

    assert attached.recipients == separate.recipients == behind_others.recipients == ["b@example.net"]
    assert vars(attached) == vars(separate)
    assert vars(behind_others) == {**vars(attached), "dot_is_text": True, "verbose": True}


@each("letter", WITH_ARGUMENT)
def test_missing_argument_is_a_usage_error(letter: str) -> None:
    with pytest.raises(Failure, match=f"option -{letter} needs an argument") as failure:
        read("b@example.net", f"-{letter}")
    assert failure.value.code == 64


@each("letter", [*ATTACHED_ONLY, *WITHOUT_ARGUMENT])
def test_other_options_leave_the_next_word_alone(letter: str) -> None:
    assert read(f"-{letter}", "b@example.net").recipients == ["b@example.net"]
    assert read(f"-{letter}{ATTACHED_ONLY.get(letter, '')}", "b@example.net").recipients == ["b@example.net"]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("-V", "x" * 101), "option -V: an envelope id has at most 100 characters"),
        (("-V", "+" * 34), "option -V: an envelope id has at most"),
        (("-N", "sometimes"), "-N sometimes: use never, or a list"),
        (("-R", "some"), "-R some: use full or hdrs"),
    ],
)
def test_what_the_bridge_would_refuse_is_a_usage_error(option: tuple[str, str], says: str) -> None:
    with pytest.raises(Failure, match=says) as failure:
        read(*option, "b@example.net")
    assert failure.value.code == 64


def test_a_condition_given_twice_is_sent_once() -> None:
    assert read("-N", "failure,delay,failure,delay").notify == "FAILURE,DELAY"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("-Z", "unknown option -Z in -Z"),
        ("-iZt", "unknown option -Z in -iZt"),
        ("--version", "unknown option --version"),
    ],
)
def test_unknown_option_is_named(argument: str, says: str) -> None:
    with pytest.raises(Failure, match=says) as failure:
        parse_arguments(["sendmail", argument])

    assert failure.value.code == 64
