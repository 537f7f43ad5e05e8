"""Waiting: has waiting mail tried at another time: what a filter finds, or what only we can tell."""

from collections.abc import Awaitable, Callable

from smtp2cf.spool import PAGE, Action, Filter, Period, Spool, SpoolItem

Wanted = Callable[[SpoolItem], Awaitable[bool]]


async def make_due(spool: Spool, which: Filter, within: Period, wanted: Wanted | None = None) -> None:
    """Have this mail tried within that time. wanted: of those that the filter finds, None for all.

    Raises SendError.
    """
    if wanted is None:
        await _retry(spool, which, within)
        return
    page: list[str] = []
    async for item in spool.items(which):
        if await wanted(item):
            page.append(item.queue_id)
        if len(page) == PAGE:
            await _retry(spool, Filter(queue_ids=tuple(page)), within)
            page.clear()
    if page:
        await _retry(spool, Filter(queue_ids=tuple(page)), within)


async def _retry(spool: Spool, which: Filter, within: Period) -> None:
    async for _ in spool.apply(Action.RETRY, which, within=within):
        pass
