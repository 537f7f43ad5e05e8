"""The list of targets. To add one: a function of bytes, a line here, and a seed in corpus/NAME."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fuzz import api, messages, model, sendmail, session, smtp, spool

CORPUS = Path(__file__).parent / "corpus"
"""Seeds and findings, a directory for each target."""

TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "path": smtp.path,
    "parameters": smtp.parameters,
    "data": smtp.data,
    "reply": smtp.reply,
    "session": session.session,
    "header": messages.header,
    "eightbit": messages.eightbit,
    "dsn": messages.dsn,
    "answer": api.answer,
    "limits": api.limits,
    "spool": spool.envelope,
    "lookup": spool.lookup,
    "sendmail-addresses": sendmail.addresses,
    "sendmail-input": sendmail.message,
    "model": model.model,
}
