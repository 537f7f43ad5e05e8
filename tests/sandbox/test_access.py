"""Who may call: tokens, accounts, and paths that lead nowhere."""

import cloudflare
import pytest

from smtp2cf.sandbox.app import TokenStatus

from .conftest import ACCOUNT, SENDING, TOKEN, Running, Start


async def test_the_sdk_verifies_an_account_owned_token(running: Running) -> None:
    verified = await running.cloudflare.accounts.tokens.verify(account_id=ACCOUNT)
    assert verified is not None
    assert verified.status == "active"
    assert verified.id


async def test_the_sdk_verifies_a_user_owned_token(running: Running) -> None:
    verified = await running.cloudflare.user.tokens.verify()
    assert verified is not None
    assert verified.status == "active"


@pytest.mark.parametrize("status", ["disabled", "expired"])
async def test_a_token_out_of_use_is_shown_as_such_and_sends_nothing(
    running: Running, status: TokenStatus
) -> None:
    running.sandbox.token_status = status
    verified = await running.cloudflare.user.tokens.verify()
    assert verified is not None
    assert verified.status == status
    with pytest.raises(cloudflare.AuthenticationError) as refused:
        await running.send("b@example.net")
    assert [error.code for error in refused.value.errors] == [10101]


async def test_a_wrong_token_is_refused_everywhere(running: Running) -> None:
    running.sandbox.token = "another"
    with pytest.raises(cloudflare.AuthenticationError) as refused:
        await running.send("b@example.net")
    assert [error.code for error in refused.value.errors] == [10101]
    with pytest.raises(cloudflare.AuthenticationError) as refused:
        await running.cloudflare.accounts.tokens.verify(account_id=ACCOUNT)
    assert [(error.code, error.message) for error in refused.value.errors] == [(1000, "Invalid API Token")]
    with pytest.raises(cloudflare.AuthenticationError):
        await running.cloudflare.email_sending.suppressions.list(account_id=ACCOUNT)
    assert [call.status for call in running.sandbox.calls] == [401]


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", 10101),
        ("Bearer", 10101),
        (f"bearer {TOKEN}", 200),
        ("Bearer \xff", 10101),
        ("Basic YTpi", 10103),
        (TOKEN, 10103),
    ],
    ids=["none", "no token", "the token", "another", "basic", "no scheme"],
)
async def test_only_a_bearer_token_opens(running: Running, authorization: str, code: int) -> None:
    headers = {"Authorization": authorization.encode("latin-1")}
    answer = await running.http.get(f"{SENDING}/suppressions", headers=headers)
    answered = answer.json()["errors"][0]["code"] if answer.is_error else answer.status_code
    assert answered == code


async def test_without_a_token_of_its_own_the_sandbox_takes_any(start: Start) -> None:
    running = await start(token=None)
    running.http.headers["Authorization"] = "Bearer whatever"
    assert (await running.post()).status_code == 200
    del running.http.headers["Authorization"]
    assert (await running.post()).status_code == 401


async def test_an_account_that_is_not_there_is_not_found(start: Start) -> None:
    running = await start(account_id="mine")
    await running.send("b@example.net", account_id="mine")
    for account in (ACCOUNT, "mine2"):
        with pytest.raises(cloudflare.NotFoundError) as refused:
            await running.send("b@example.net", account_id=account)
        (error,) = refused.value.errors
        assert (error.code, error.message) == (10000, "email.sending.error.not_found")


async def test_what_cannot_be_an_account_is_not_found(running: Running) -> None:
    with pytest.raises(cloudflare.NotFoundError):
        await running.send("b@example.net", account_id="acc.ount")


async def test_a_path_that_leads_nowhere_is_answered_in_the_envelope(running: Running) -> None:
    for method, path in [("GET", "/client/v4/nowhere"), ("PUT", f"{SENDING}/send_raw")]:
        answer = await running.http.request(method, path)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, 7003)


async def test_the_front_page_tells_where_to_look(running: Running) -> None:
    answer = await running.http.get("/", headers={"Authorization": ""})
    assert answer.headers["Content-Type"].startswith("text/plain")
    for word in ("/messages", "send_raw", "bounce", "slow-3s"):
        assert word in answer.text
