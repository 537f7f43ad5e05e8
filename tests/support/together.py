"""Which tests run in one worker, one after the other: they share what is expensive, or disturb one another.

The mark xdist_group would say so too, but pytest-xdist 3.8 loses it without a word under pytest 9.2: it keeps
the group in a test's name, where pytest no longer lets it.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

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

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Forgets a group that has run: after every test, all groups of the worker are gone through."""
        super().mark_test_complete(node, item_index, duration)
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]

    def _reschedule(self, node: WorkerController) -> None:
        """Gives a node no work before it has collected: nodes that replace others come one by one."""
        if node in self.registered_collections:
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Doesn't run again the test that ended its worker: it would end the next one too."""
        workload = self.assigned_work.pop(node)
        unfinished = [
            (scope, nodeid) for scope, group in workload.items() for nodeid, done in group.items() if not done
        ]
        if not unfinished:
            return None
        scope, crashed = unfinished[0]
        workload[scope][crashed] = True
        self.workqueue.update({scope: group for scope, group in workload.items() if not all(group.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together | None:
    """For `--dist loadgroup`, as `make test` has it."""
    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None
