"""One test over a table whose rows are microseconds of work: a test costs pytest milliseconds, in its worker,
in the controller and in the collection of every worker.

As with pytest.mark.parametrize every row is tried, whatever became of others, and those that fail are named.
Not for tests with fixtures of their own for each row, and not for coroutines.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

Test = Callable[..., None]
SHOWN = 5
"""Failing rows with their traceback; the others are counted."""


def each(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Test], Test]:
    """The test is tried with each of the rows: values of the parameters with these names."""
    alone = isinstance(names, str)
    names = (names,) if isinstance(names, str) else names
    table = [dict(zip(names, (row,) if alone else row, strict=True)) for row in rows]
    assert table, "a table without rows proves nothing"

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def test_each(**fixtures: Any) -> None:
            failures = [error for row in table if (error := _error_of(test, row, fixtures))]
            if failures:
                raise ExceptionGroup(f"{len(failures)} of {len(table)} rows fail", failures[:SHOWN])

        signature = inspect.signature(test)
        assert set(names) <= set(signature.parameters), f"{test.__name__} has no parameter for one of {names}"
        others = [given for name, given in signature.parameters.items() if name not in names]
        test_each.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        del test_each.__wrapped__  # type: ignore[attr-defined] # pytest would ask it for its parameters
        return test_each

    return decorate


def _error_of(test: Test, row: dict[str, Any], fixtures: dict[str, Any]) -> Exception | None:
    try:
        test(**row, **fixtures)
    except Exception as error:  # noqa: BLE001 - whatever a test may fail with
        shown = ", ".join(f"{name}={value!r:.200}" for name, value in row.items())
        error.add_note(f"with {shown}")
        return error
    return None
