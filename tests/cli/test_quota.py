"""smtp2cf quota: a line, or JSON; unknown is no error."""

from collections.abc import Iterator

import orjson
import pytest

from smtp2cf.cloudflare.quota import NOTHING_SAID
from smtp2cf.sandbox import Sandbox
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
