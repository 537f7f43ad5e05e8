"""`python -m fuzz.draw SECONDS`: scenarios of the model, drawn by hypothesis until the time is up.

Ends with the smallest scenario that breaks the promise, which is tried first the next time. Under atheris
there would be a tenth as many: it looks on at every line, and what breaks here is not an octet.
"""

import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.model.scenario import Scenario, scenarios
from tests.model.test_promise import played

EACH = 200
"""Scenarios between two looks at the clock."""
LEARNED = Path(".fuzz/model")


@settings(
    deadline=None,
    max_examples=EACH,
    database=DirectoryBasedExampleDatabase(LEARNED),
    suppress_health_check=list(HealthCheck),
)
@given(scenarios)
def promise(scenario: Scenario) -> None:
    """See tests/model."""
    assert played(scenario) == []


def main() -> None:
    """Raises AssertionError for a finding."""
    began = time.monotonic()
    rounds = 0
    while time.monotonic() - began < float(sys.argv[1]):
        seed(time.time_ns())(promise)()
        rounds += 1
    print(f"{rounds * EACH} scenarios in {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
