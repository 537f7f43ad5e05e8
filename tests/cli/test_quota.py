"""smtp2cf quota: a line, or JSON; unknown is no error."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from smtp2cf.access.charge import Charge
from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Limit, Named
from smtp2cf.cloudflare.quota import NOTHING_SAID
from smtp2cf.sandbox import Sandbox
from smtp2cf.spool import open_spool
from smtp2cf.spool.clock import passed
from tests.support.command import Done, smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN


@pytest.fixture(scope="module")
def sandbox() -> Iterator[tuple[Sandbox, str]]:
    with running_sandbox(token=TOKEN) as started:
        yield started


def quota(url: str, *arguments: str, token: str = TOKEN) -> Done:
    return smtp2cf("quota", *arguments, ACCOUNT_ID="a1", API_TOKEN=token, API_BASE_URL=url)


def test_a_known_quota(sandbox: tuple[Sandbox, str]) -> None:
    sandbox[0].quota.value, sandbox[0].quota.sent = 1000, 120
    assert quota(sandbox[1]).out.startswith("120 of 1000 recipients today, resets 2")
    shown = orjson.loads(quota(sandbox[1], "--json").out)
    assert shown.pop("resets_at") == sandbox[0].quota.resets_at
    assert shown == {"known": True, "unit": "day", "quota": 1000, "sent": 120, "used_up": False}


def test_an_unknown_one_is_no_error(sandbox: tuple[Sandbox, str]) -> None:
    sandbox[0].quota.value = None
    assert quota(sandbox[1]) == Done(0, f"unknown: {NOTHING_SAID}\n", "")
    assert orjson.loads(quota(sandbox[1], "--json").out) == {"known": False, "reason": NOTHING_SAID}


def test_a_refused_token_and_no_answer_are_errors(sandbox: tuple[Sandbox, str]) -> None:
    refused = quota(sandbox[1], token="another")
    assert (refused.status, refused.out) == (77, "")
    assert refused.err.startswith("smtp2cf: Cloudflare refuses the API token")
    away = quota("http://127.0.0.1:1/v4")
    assert (away.status, away.out) == (69, "")
    assert away.err.startswith("smtp2cf: cannot reach 127.0.0.1")


async def test_who_nears_one_of_the_bridges_own_quotas_is_shown(
    sandbox: tuple[Sandbox, str], tmp_path: Path
) -> None:
    spool = await open_spool(f"sqlite://{tmp_path}/spool.sqlite3", state_dir=tmp_path)
    counts = Counts(spool, clock=passed)
    await counts.read()
    named = Named(Limit(5, "messages", 86400), "")
    for number in range(1, 4 * 60):
        who = f"192.0.2.{number // 4}"
        counts.take([Charge(f"client//messages/86400/{who}", who, named)])
    await counts.write()
    env = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": sandbox[1], "STATE_DIR": str(tmp_path)}
    try:
        shown = smtp2cf("quota", **env, CLIENT_QUOTA="4 messages/1d").out.splitlines()[1:]
        assert len(shown) == 51
        assert shown[0].startswith("192.0.2.1: 4 of 4 messages/1d (SMTP2CF_CLIENT_QUOTA), full until 2")
        assert shown[-1] == "and 9 more"
        shown = smtp2cf("quota", "--json", **env, USER_QUOTA="4 messages/1d").out.splitlines()[1:]
        assert shown == []
        shown = smtp2cf("quota", "--json", **env, CLIENT_QUOTA="5 messages/1d").out.splitlines()[1:]
        told = {"setting": "SMTP2CF_CLIENT_QUOTA", "limit": "5 messages/1d", "who": "192.0.2.1", "used": 4}
        assert orjson.loads(shown[0]) == told
    finally:
        await spool.close()
