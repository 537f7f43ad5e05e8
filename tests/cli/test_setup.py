"""smtp2cf setup events: makes what is missing, says what is, and does nothing twice."""

from collections.abc import Iterator

import pytest

from smtp2cf.sandbox import Sandbox
from tests.support.command import Done, smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN


@pytest.fixture
def sandbox() -> Iterator[tuple[Sandbox, str]]:
    with running_sandbox(token=TOKEN, senders=["example.com", "news.example.com", "example.org"]) as started:
        yield started


def setup(url: str, *arguments: str, **variables: str) -> Done:
    given = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": url} | variables
    return smtp2cf("setup", "events", *arguments, **given)


def test_it_makes_what_is_missing_once(sandbox: tuple[Sandbox, str]) -> None:
    stand_in, url = sandbox
    dry = setup(url, "--dry-run")
    assert (dry.status, dry.err) == (1, "")
    assert "queue smtp2cf-events: missing\n" in dry.out
    assert "events of news.example.com: not subscribed\n" in dry.out
    assert not stand_in.event_queues.queues

    made = setup(url)
    (queue,) = stand_in.event_queues.queues.values()
    assert made.status == 0, made.err
    assert made.out.startswith(f"made the queue smtp2cf-events ({queue.id})\nmade the pull consumer")
    assert made.out.endswith(
        f"now set SMTP2CF_EVENTS_QUEUE_ID={queue.id}, or events_queue_id of an [[account]]\n"
    )
    subscribed = [each["source"]["domain"] for each in stand_in.event_queues.subscriptions.values()]
    assert sorted(subscribed) == ["example.com", "example.org", "news.example.com"]
    assert queue.pull

    again = setup(url, EVENTS_QUEUE_ID=queue.id)
    assert (again.status, "made" in again.out, "now set" in again.out) == (0, False, False)
    assert len(stand_in.event_queues.subscriptions) == 3


def test_only_the_domains_that_send_are_subscribed(sandbox: tuple[Sandbox, str]) -> None:
    stand_in, url = sandbox
    assert setup(url, ALLOWED_SENDER_DOMAINS="example.org").status == 0
    (one,) = stand_in.event_queues.subscriptions.values()
    assert one["source"]["domain"] == "example.org"


def test_what_a_person_has_to_decide_is_said(sandbox: tuple[Sandbox, str]) -> None:
    stand_in, url = sandbox
    stand_in.event_queues.add("other", queue_id="q1", domain="example.org")
    done = setup(url, ALLOWED_SENDER_DOMAINS="example.org")
    assert done.status == 78
    assert "events of example.org: they go to another queue, q1\n" in done.out
    assert "one queue only" in done.err
    wrong = setup(url, EVENTS_QUEUE_ID="nowhere")
    assert (wrong.status, wrong.out) == (69, "")
    assert "no queue nowhere (SMTP2CF_EVENTS_QUEUE_ID)" in wrong.err


@pytest.mark.parametrize(("lacking", "named"), [("queues", "Queues: Read"), ("zones", "Zone: Read")])
def test_a_permission_that_is_missing_is_named(
    sandbox: tuple[Sandbox, str], lacking: str, named: str
) -> None:
    stand_in, url = sandbox
    stand_in.lacking = (lacking,)  # type: ignore[assignment]
    done = setup(url)
    assert (done.status, done.out) == (77, "")
    assert f"needs the permission {named}" in done.err


def test_check_says_whether_the_set_up_is_complete(sandbox: tuple[Sandbox, str]) -> None:
    stand_in, url = sandbox
    queue = stand_in.event_queues.add("q", queue_id="q1", domain="example.com", pull=True)
    known = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": url, "EVENTS_QUEUE_ID": queue.id}
    missing = smtp2cf("check", ALLOWED_SENDER_DOMAINS="example.com,example.org", **known)
    assert "no queue gets the events of example.org: run 'smtp2cf setup events'" in missing.out
    complete = smtp2cf("check", ALLOWED_SENDER_DOMAINS="example.com", **known)
    assert "the queue q gets those of 1 domains" in complete.out
