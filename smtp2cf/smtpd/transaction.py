"""Transaction: what MAIL and RCPT said so far, and the envelope that it becomes (RFC 5321 §3.3). No I/O.

Knows no session: whether the client may start one is not asked here.
"""

from typing import Literal, cast

from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Envelope, new_queue_id
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.chunks import Chunks
from smtp2cf.smtpd.parameters import MAIL_RULES, RCPT_RULES, Parameters, parse_parameters
from smtp2cf.smtpd.path import PathError, TakesName, parse_forward_path, parse_path
from smtp2cf.smtpd.rules import Recipients

MAIL_USAGE = "MAIL FROM:<address> [parameters]"
RCPT_USAGE = "RCPT TO:<address> [parameters]"


class Transaction(aiosmtpd.Envelope):
    """One transaction; `mail_from` is None until MAIL was taken. Nothing is kept of a refused command."""

    def __init__(self) -> None:
        super().__init__()
        self.queue_id = ""
        """Its message's, from MAIL on."""
        self.parameters: Parameters = {}
        self.recipient_parameters: dict[str, Parameters] = {}
        self.chunks: Chunks | None = None
        """What BDAT brought so far."""

    def mail(self, argument: str, *, size_limit: int, takes_name: TakesName | None = None) -> Reply | None:
        """Take MAIL's argument (`FROM:<address> …`); the reply where it is refused.

        takes_name: as in parse_path.
        """
        if argument[:5].upper() != "FROM:":
            return replies.syntax(MAIL_USAGE)
        try:
            address, rest = parse_path(argument[5:], takes_name)
        except PathError as error:
            return error.reply
        if rest:
            parameters, wrong = parse_parameters(rest, MAIL_RULES)
            if wrong is not None:
                return wrong
            if int(parameters.get("SIZE", 0)) > size_limit:
                return replies.too_big(size_limit)
            self.parameters = parameters
            self.smtp_utf8 = "SMTPUTF8" in parameters
        self.mail_from = address
        self.queue_id = new_queue_id()
        return None

    def rcpt(
        self,
        argument: str,
        *,
        limit: int,
        postmaster: str = "",
        recipients: Recipients | None = None,
        user: str = "",
    ) -> Reply | None:
        """Take RCPT's argument (`TO:<address> …`); the reply where it is refused.

        postmaster: who `<Postmaster>` is, "" for nobody. recipients: who else needs no domain, and to whom no
        mail may go. user: whose mail it is.
        """
        if argument[:3].upper() != "TO:":
            return replies.syntax(RCPT_USAGE)
        if len(self.rcpt_tos) >= limit:
            return replies.too_many_recipients(limit)
        try:
            address, rest = parse_forward_path(
                argument[3:], postmaster, recipients.takes_name if recipients is not None else None
            )
        except PathError as error:
            return error.reply
        if not address:
            return replies.NULL_RECIPIENT
        if rest:
            parameters, wrong = parse_parameters(rest, RCPT_RULES)
            if wrong is not None:
                return wrong
        if recipients is not None and (refusal := recipients.refusal(address, user)) is not None:
            return refusal
        if rest:
            self.recipient_parameters[address] = parameters
        self.rcpt_tos.append(address)
        return None

    def take_back(self) -> None:
        """Forget the last recipient."""
        address = self.rcpt_tos.pop()
        if address not in self.rcpt_tos:
            self.recipient_parameters.pop(address, None)

    @property
    def wants_prdr(self) -> bool:
        """Its client asked for an answer for each of several recipients."""
        return "PRDR" in self.parameters and len(self.rcpt_tos) > 1

    def complete(self, *, client: str, helo: str, user: str, lmtp: bool, listener: str = "") -> Envelope:
        """The envelope. client: the peer's address. helo: the name it gave. user: who authenticated.

        lmtp: each recipient gets a reply of its own, even if the client has not asked for PRDR. listener: its
        name.
        """
        parameters = self.parameters
        notify, orcpt = {}, {}
        for address, given in self.recipient_parameters.items():
            if "NOTIFY" in given:
                notify[address] = given["NOTIFY"]
            if "ORCPT" in given:
                orcpt[address] = given["ORCPT"]
        return Envelope(
            reverse_path=self.mail_from or "",
            forward_paths=tuple(self.rcpt_tos),
            body=cast("Literal['7BIT', '8BITMIME']", parameters.get("BODY", "7BIT")),
            smtputf8=self.smtp_utf8,
            ret=cast("Literal['FULL', 'HDRS'] | None", parameters.get("RET")),
            envid=parameters.get("ENVID"),
            notify=notify,
            orcpt=orcpt,
            auth_user=user,
            client=client,
            helo=helo,
            listener=listener,
            per_recipient=lmtp or ("PRDR" in parameters and len(self.rcpt_tos) > 1),
            queue_id=self.queue_id or new_queue_id(),
        )
