"""The envelope and its SMTP parameters (MAIL and RCPT)."""

from __future__ import annotations


class Envelope:
    """Sender, recipients and parameters, named as in smtp2cf.envelope.Envelope.

    reverse_path: "" for the null sender. ret, envid (as xtext), notify: "" if not given. notify_of, orcpt_of:
    by recipient, from -bs.
    """

    def __init__(self, reverse_path: str, forward_paths: list[str]) -> None:
        self.reverse_path = reverse_path
        self.forward_paths = forward_paths
        self.eight_bit = False
        self.smtputf8 = False
        self.ret = ""
        self.envid = ""
        self.notify = ""
        self.notify_of: dict[str, str] = {}
        self.orcpt_of: dict[str, str] = {}

    @property
    def ascii(self) -> bool:
        return "".join((self.reverse_path, *self.forward_paths)).isascii()


def mail_parameters(envelope: Envelope, size: int) -> list[tuple[str, str]]:
    """The parameters of MAIL, each with the extension that defines it."""
    parameters = (
        ("SIZE", f"SIZE={size}" if size else ""),
        ("8BITMIME", "BODY=8BITMIME" if envelope.eight_bit else ""),
        ("SMTPUTF8", "SMTPUTF8" if envelope.smtputf8 else ""),
        ("DSN", f"RET={envelope.ret}" if envelope.ret else ""),
        ("DSN", f"ENVID={envelope.envid}" if envelope.envid else ""),
    )
    return [(extension, text) for extension, text in parameters if text]


def rcpt_parameters(envelope: Envelope, recipient: str) -> str:
    notify = envelope.notify_of.get(recipient, envelope.notify)
    orcpt = envelope.orcpt_of.get(recipient, "")
    return " ".join([f"NOTIFY={notify}"] * bool(notify) + [f"ORCPT={orcpt}"] * bool(orcpt))
