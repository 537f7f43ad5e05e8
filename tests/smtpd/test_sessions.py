"""Sessions share what aiosmtpd found out about itself once, and nothing that can change."""

import ast
import asyncio
import contextlib
import gc
import inspect
import tracemalloc
import weakref
from types import MappingProxyType

import aiosmtpd
import pytest
from aiosmtpd.smtp import SMTP

from smtp2cf.smtpd import connection
from smtp2cf.smtpd.aiosmtpd_base import AIOSMTPD_TABLES, aiosmtpd_attributes
from smtp2cf.smtpd.outgoing import State
from tests.smtpd.conftest import Start, connections
from tests.smtpd.dialog import dotted, until

UNCHANGING = (str, bytes, int, float, type(None), MappingProxyType, State)


async def test_sessions_share_nothing_that_can_change(start: Start) -> None:
    service = await start()
    for value in aiosmtpd_attributes("bridge.example", 1 << 20, 60.0).values():
        assert isinstance(value, UNCHANGING)
    await service.greeted()
    await service.greeted()
    one, other = service.server.sessions
    shared = {
        name
        for name, value in vars(one).items()
        if vars(other)[name] is value and not isinstance(value, UNCHANGING)
    }
    assert shared == {"loop", "rules", "_sessions", "_listener"}


def test_what_is_shared_holds_no_session() -> None:
    for value in aiosmtpd_attributes("bridge.example", 1 << 20, 60.0).values():
        members = value.values() if isinstance(value, MappingProxyType) else [value]
        assert not any(hasattr(member, "__self__") for member in members)


async def test_a_session_has_what_aiosmtpd_gives_it(start: Start) -> None:
    """Whatever of aiosmtpd's is used later must not be missing: all that is left out is named here."""
    service = await start()
    await service.greeted()
    (session,) = service.server.sessions
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        missing = set(vars(SMTP(None, hostname="x", loop=loop))) - set(vars(session))
    # The stream reader, which is not used, and who is to check passwords, whom nobody asks.
    missing -= {
        "_loop", "_drain_waiters", "_stream_reader_wr", "_source_traceback", "_strong_reader",
        "_client_connected_cb", "_closed", "_auth_callback", "_call_limit_base", "_reject_connection",
    }  # fmt: skip
    assert not missing, (
        f"aiosmtpd {aiosmtpd.__version__} gives a session {', '.join(sorted(missing))}, "
        "which smtp2cf/smtpd/aiosmtpd_base.py, aiosmtpd_attributes, does not"
    )


def test_no_other_private_name_of_aiosmtpd_is_used() -> None:
    """What connection.py names itself is nothing else there, now or in a new version."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        theirs = {*dir(SMTP), *vars(SMTP(None, hostname="x", loop=loop))}
    source = ast.parse(inspect.getsource(connection))
    used = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    defined = {
        node.name for node in ast.walk(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    private = {name for name in (used | defined) & theirs if name.startswith("_")}
    assert private == {"__init__"}
    assert set(AIOSMTPD_TABLES) <= theirs


async def test_what_one_session_does_does_not_show_in_another(start: Start) -> None:
    service = await start()
    one, other = await service.greeted("one.example"), await service.greeted("other.example")
    await one.ask("MAIL FROM:<anna@example.com> SMTPUTF8 RET=FULL")
    await one.ask("RCPT TO:<bert@example.net> NOTIFY=NEVER")
    assert (await other.ask("RCPT TO:<carla@example.org>")).startswith("503")
    assert (await other.ask("MAIL FROM:<dora@example.com>")).startswith("250")
    await other.ask("RCPT TO:<carla@example.org>")
    for client in (other, one):
        await client.ask("DATA")
        await client.ask(".")
    (first, _), (second, _) = service.taken
    assert (first.reverse_path, first.forward_paths) == ("dora@example.com", ("carla@example.org",))
    assert (first.helo, first.smtputf8, first.ret, first.notify) == ("other.example", False, None, {})
    assert (second.helo, second.smtputf8, second.ret) == ("one.example", True, "FULL")


async def test_a_session_that_ended_is_not_kept(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.start_message()
    (session,) = service.server.sessions
    kept = weakref.ref(session)
    del session
    await client.send(dotted(b"x\r\n") + b"QUIT\r\n")
    await client.everything()
    await until(lambda: not service.server.sessions)
    await asyncio.sleep(0)
    gc.collect()
    assert kept() is None


async def _one_message(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"EHLO a\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
    assert (await reader.read()).endswith(b"221 2.0.0 goodbye\r\n")
    writer.close()
    await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_memory_comes_back_after_thousands_of_sessions(start: Start, logged: list) -> None:
    others = connections()
    service = await start()

    async def sessions(count: int) -> int:
        for _ in range(0, count, 50):
            await asyncio.gather(*(_one_message(service.port) for _ in range(50)))
        await until(lambda: not service.server.sessions)
        service.taken.clear()
        service.confirmed.clear()
        logged.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = await sessions(500)
    after = await sessions(2500)
    tracemalloc.stop()
    # Ten octets a session are what caches and counters may keep; a session itself is thousands.
    assert after - before < 25_000
    left = [found for found in connections() if found not in others]
    assert not left, [gc.get_referrers(found) for found in left[:1]]
