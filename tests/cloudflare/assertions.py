"""What an error says about a call that was not answered."""

from smtp2cf.reply import Scope, SendError


def assert_never_sent(error: SendError) -> None:
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.4.1", Scope.ACCOUNT)
    assert not error.unanswered
    assert error.reply.text.isprintable()


def assert_maybe_sent(error: SendError) -> None:
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.0", Scope.ACCOUNT)
    assert error.unanswered
    assert error.reply.text.isprintable()
