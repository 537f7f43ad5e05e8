"""Target: scenarios of kills, lost answers, full disks and clocks that jump, held against what is promised.

An input is the choices that hypothesis makes to draw a scenario; see tests/model.
"""

from tests.model.test_promise import test_nothing_is_lost_and_nothing_goes_out_twice_unsaid as promise


def model(octets: bytes) -> None:
    """Nothing is lost, and nothing goes out twice without a word in the log."""
    promise.hypothesis.fuzz_one_input(octets)
