"""Which tests run in one worker, one after the other: they share what is expensive, or disturb one another.

The mark xdist_group would say so too, but pytest-xdist 3.8 loses it without a word under pytest 9.2: it keeps
the group in a test's name, where pytest no longer lets it.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER = (
    "tests/aiosmtpd/test_aiosmtpd.py",  # start seven processes, all at once
    "tests/clients/test_hanging_up.py::test_gos_net_smtp",  # compile Go's library
    "tests/image/test_image.py",  # build the image
    "tests/process/test_attacks.py",  # measure what attacks cost
)
"""What their names begin with."""


class Together(LoadScopeScheduling):
    """Hands out the tests of a group as one, and first, every other test by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together | None:
    """For `--dist loadgroup`, as `make test` has it."""
    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None
