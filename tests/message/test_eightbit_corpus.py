"""Over all messages we have: what is UTF-8 is not touched, what is not reads the same once it is."""

from email.policy import Policy, default

from smtp2cf.message.eightbit import is_utf8, to_utf8
from smtp2cf.message.newlines import has_bare_newlines
from tests.corpus import Sample, more_messages, samples
from tests.message.reading import (
    POLICIES,
    charsets,
    display_names,
    is_subsequence,
    leaves,
    read,
    structure,
    untouched_lines,
)
from tests.support.each import each

EVERYTHING = [*samples(), *(Sample(name, message) for name, message in more_messages())]
UTF8 = [sample for sample in EVERYTHING if is_utf8(sample.message)]
RAW = [sample for sample in EVERYTHING if not is_utf8(sample.message)]
READABLE = [sample for sample in RAW if not sample.salvaged]

over_raw = each("sample", RAW)
over_readable = each("sample", READABLE)
with_both_policies = each("policy", POLICIES)


@each("sample", UTF8)
def test_a_message_in_utf8_is_the_same_object(sample: Sample) -> None:
    assert to_utf8(sample.message) is sample.message


@over_raw
def test_what_comes_out_is_utf8_and_stays_as_it_is(sample: Sample) -> None:
    converted = to_utf8(sample.message)
    assert converted.decode()
    assert to_utf8(converted) is converted


@over_raw
def test_no_bare_newline_comes_in(sample: Sample) -> None:
    assert has_bare_newlines(sample.message) or not has_bare_newlines(to_utf8(sample.message))


@with_both_policies
@over_raw
def test_the_structure_is_the_same(sample: Sample, policy: Policy) -> None:
    assert structure(to_utf8(sample.message), policy) == structure(sample.message, policy)


@with_both_policies
@over_readable
def test_every_part_has_the_same_bytes_once_decoded(sample: Sample, policy: Policy) -> None:
    assert leaves(to_utf8(sample.message), policy) == leaves(sample.message, policy)


@over_raw
def test_every_part_keeps_its_charset(sample: Sample) -> None:
    assert charsets(to_utf8(sample.message)) == charsets(sample.message)


@over_readable
def test_all_lines_that_need_no_change_are_there_in_their_order(sample: Sample) -> None:
    assert is_subsequence(untouched_lines(sample.message), to_utf8(sample.message).split(b"\n"))


@each("sample", [sample for sample in RAW if sample.headers])
def test_header_fields_say_what_their_bytes_said(sample: Sample) -> None:
    message = read(to_utf8(sample.message))
    assert {name: str(message[name]) for name in sample.headers} == sample.headers


@each("sample", [sample for sample in RAW if sample.names])
def test_display_names_say_what_their_bytes_said(sample: Sample) -> None:
    names = display_names(to_utf8(sample.message))
    assert tuple(names[: len(sample.names)]) == sample.names


@with_both_policies
@each("sample", [sample for sample in RAW if sample.filenames])
def test_filenames_say_what_their_bytes_said(sample: Sample, policy: Policy) -> None:
    parts = read(to_utf8(sample.message), policy).walk()
    assert tuple(name for part in parts if (name := part.get_filename())) == sample.filenames


@each("sample", [sample for sample in RAW if sample.text])
def test_text_says_what_its_bytes_said(sample: Sample) -> None:
    part = next(part for part in read(to_utf8(sample.message), default).walk() if not part.is_multipart())
    assert sample.text in part.get_content()


def test_every_kind_of_message_is_there() -> None:
    """So that the tests above test something."""
    assert len(UTF8) > 50
    assert len(READABLE) > 80
