"""The options of a sandbox: each of them reaches it, from `sandbox` and from `serve --sandbox`."""

import functools

import pytest
import typer

from smtp2cf.cli import stand_in
from smtp2cf.cli.app import app
from smtp2cf.sandbox import RateLimit

OPTIONS = {"strict", "senders", "quota", "rate", "silent", "string-codes"}


def test_each_option_reaches_the_sandbox() -> None:
    make = stand_in.maker(
        strict=True,
        senders="Example.com, *.example.org,",
        quota=7,
        rate="40/10",
        silent=True,
        string_codes=True,
    )
    assert isinstance(make, functools.partial)
    assert make.keywords == {
        "token": None,
        "rate_limit": RateLimit(40, 10.0, 10.0),
        "strict": True,
        "senders": ["Example.com", "*.example.org"],
        "quota": 7,
        "silent": True,
        "string_codes": True,
    }
    sandbox = make(hosts=("h",))
    assert (sandbox.quota.value, sandbox.senders.configured) == (7, {"example.com", "*.example.org"})


@pytest.mark.parametrize("rate", ["1200", "0/10", "10/0", "a/b", "1/2/3", "-1/2"])
def test_a_rate_is_calls_and_seconds(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stand_in.maker(strict=False, senders="", quota=None, rate=rate, silent=False, string_codes=False)
    assert "such as 1200/300" in capsys.readouterr().err


def test_both_commands_have_the_same_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    alone = {option for parameter in commands["sandbox"].params for option in parameter.opts}
    served = {option for parameter in commands["serve"].params for option in parameter.opts}
    assert {f"--{option}" for option in OPTIONS} <= alone
    assert {f"--sandbox-{option}" for option in OPTIONS} <= served
