"""News: what happens reaches those who listen, and costs nothing where nobody does."""

import time
from collections.abc import Iterator

import pytest

from smtp2cf.journal import news


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    yield
    news.told_to()


def test_everybody_who_listens_is_told() -> None:
    first: list[news.News] = []
    second: list[news.News] = []
    news.told_to(first.append, second.append)
    assert news.is_wanted("api.token_refused")
    before = time.time()
    news.tell("api.token_refused", "Cloudflare refused the token", account="shop")
    assert first == second
    (told,) = first
    assert (told.kind, told.text) == ("api.token_refused", "Cloudflare refused the token")
    assert told.facts == {"account": "shop"}
    assert before <= told.at <= time.time()


def test_what_nobody_heeds_is_not_told() -> None:
    heard: list[news.News] = []
    news.told_to(heard.append, kinds=("mail.held", "api.token_refused"))
    assert news.is_wanted("mail.delivered", "mail.held")
    assert not news.is_wanted("mail.delivered")
    news.tell("mail.delivered", "mail was delivered")
    news.tell("mail.held", "mail is held")
    assert [one.kind for one in heard] == ["mail.held"]


def test_nobody_is_told_where_nobody_listens() -> None:
    heard: list[news.News] = []
    news.told_to(heard.append)
    news.told_to()
    assert not news.is_wanted("api.token_refused")
    news.tell("api.token_refused", "Cloudflare refused the token")
    assert not heard
