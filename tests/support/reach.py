"""What an object keeps alive: for tests of what is remembered, for how long, and how much of it.

Counts what can be reached from it by references, whatever the attributes are called.
"""

import asyncio
import gc
import types
from collections.abc import Iterator
from typing import Any

_SHARED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.CoroutineType,
    asyncio.AbstractEventLoop,
    asyncio.Task,
    types.MethodType,
)
"""Behind these is the program itself, or all that runs."""


def kept_by(root: object) -> Iterator[Any]:
    """Everything that can be reached from it, each once; not the program's own code."""
    seen: set[int] = set()
    left = [root]
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, _SHARED):
            continue
        seen.add(id(found))
        yield found
        left += gc.get_referents(found)


def instances(module: types.ModuleType) -> list[Any]:
    """All objects that there are of the classes of a module."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found).__module__ == module.__name__]
