"""Notices: what the operator is told of by mail, because it can be told to nobody else, in plain words.

What happened and when, and what to do about it. Marked as automatic (RFC 3834), so that no autoresponder
answers. Knows nothing of when there is a notice and of how it is sent.
"""

from collections.abc import Mapping, Sequence
from email.utils import make_msgid
from typing import NamedTuple

from smtp2cf.message.dsn_fields import date, field_lines, host_name, mailbox, quoted, wrapped


class Topic(NamedTuple):
    """What notices of one kind have in common. subject: a sentence. advice: what to do."""

    subject: str
    advice: str


class Happened(NamedTuple):
    """Something that happened. at: seconds since the epoch."""

    at: float
    text: str


_TRACE = "`smtp2cf trace` and the queue id show what became of it."
_RENEW = "Renew it: the bridge reads new files by itself. Until then clients may refuse to connect."

TOPICS: Mapping[str, Topic] = {
    "mail.dsn_undeliverable": Topic(
        "mail failed, and its sender can't be told",
        f"It is lost, unless its content is known elsewhere. {_TRACE}",
    ),
    "mail.held": Topic(
        "mail is held because the bridge failed on it",
        "`smtp2cf queue show` and the queue id show it, `smtp2cf queue release` tries it again, and"
        " `smtp2cf queue delete` removes it. The log has the error, which is one of the bridge: please report"
        " it.",
    ),
    "mail.complained": Topic(
        "a recipient marked mail as unwanted",
        "Send them no more of it. Complaints harm the reputation of the sender's domain, and Cloudflare stops"
        " sending to this address (`smtp2cf suppressions`).",
    ),
    "drop.set_aside": Topic(
        "mail that sendmail left can't be sent",
        "Its sender can't be told. The file is kept, with the reason beside it: once that is mended, move it"
        " back into SMTP2CF_SENDMAIL_DROP_DIR, or delete it.",
    ),
    "dsn.over_quota": Topic(
        "too many delivery reports for one address",
        "Further ones are not sent (SMTP2CF_DSN_QUOTA). If the address is forged, somebody sends mail in its"
        " name through this bridge: `smtp2cf log --from` and the address show who. SMTP2CF_SENDER_QUOTA and"
        " SMTP2CF_ALLOWED_SENDER_DOMAINS limit that.",
    ),
    "api.token_refused": Topic(
        "Cloudflare refuses the API token",
        "All mail waits, until SMTP2CF_EXPIRE_AFTER at the latest. `smtp2cf check` says what is wrong with"
        " the token. A new one in the file that SMTP2CF_API_TOKEN_FILE names is used at once, one in"
        " SMTP2CF_API_TOKEN after a restart.",
    ),
    "api.unreachable": Topic(
        "Cloudflare could not be reached",
        "Since you have this mail, it can be reached again, and waiting mail goes out. If it happens often,"
        " look at this host's network, name servers and proxy.",
    ),
    "api.quota_low": Topic(
        "80 % of Cloudflare's sending quota are used",
        "When it is used up, mail waits until the quota resets. `smtp2cf quota` shows it; Cloudflare raises"
        " it on request.",
    ),
    "api.quota_used_up": Topic(
        "Cloudflare's sending quota is used up",
        "Mail waits until the quota resets. `smtp2cf quota` shows it; Cloudflare raises it on request.",
    ),
    "quota.scarce": Topic(
        "somebody has nearly used up a quota",
        "What exceeds it gets 450. If that much mail is meant, raise the setting that is named above.",
    ),
    "sender.not_configured": Topic(
        "Cloudflare no longer sends for a domain",
        "Its mail waits, until SMTP2CF_EXPIRE_AFTER at the latest. Set the domain up for Email Sending in"
        " Cloudflare's dashboard again; `smtp2cf check` says what is missing.",
    ),
    "sender.failing": Topic(
        "Cloudflare fails to send for a domain",
        "Its mail waits, until SMTP2CF_EXPIRE_AFTER at the latest. Look at the domain in Cloudflare's"
        " dashboard, and ask their support.",
    ),
    "spool.nearly_full": Topic(
        "the disk of the spool is nearly full",
        "Make room on it, or lower SMTP2CF_SPOOL_MIN_FREE.",
    ),
    "spool.broken": Topic(
        "the spool could not be used",
        "Meanwhile no mail was taken. The log has the error; look at the disk, or the database, of"
        " SMTP2CF_SPOOL_URL.",
    ),
    "tls.expires_soon": Topic("the TLS certificate expires soon", _RENEW),
    "tls.expired": Topic("the TLS certificate has expired", _RENEW),
    "tls.reload_failed": Topic(
        "the new TLS certificate can't be used",
        "Mend the files (SMTP2CF_TLS_CERT_FILE, SMTP2CF_TLS_KEY_FILE): the bridge reads them by itself.",
    ),
}
"""By the name in the log."""


def build(
    kind: str,
    happened: Sequence[Happened],
    *,
    more: int = 0,
    since: float = 0.0,
    to: Sequence[str],
    sender: str,
    hostname: str,
    now: float,
) -> bytes:
    """The notice: bytes with CRLF line ends, in UTF-8.

    more: how often it has happened besides. since: from when on, in seconds since the epoch as `now`.
    """
    topic, hostname = TOPICS[kind], host_name(hostname)
    listed = [f"{date(one.at)}\r\n{wrapped(quoted(one.text), indent='    ')}" for one in happened]
    if more:
        listed.append(f"{f'And {more} more' if happened else _times(more)} since {date(since)}.")
    paragraphs = [
        f"This is the mail relay {hostname}.",
        wrapped(f"{topic.subject[0].upper()}{topic.subject[1:]}:"),
        *listed,
        wrapped(topic.advice),
        wrapped(
            f"The log calls this {kind}. There is at most one mail about it in an hour, to the address in"
            " SMTP2CF_OPERATOR."
        ),
    ]
    body = ("\r\n\r\n".join(paragraphs) + "\r\n").encode()
    fields = [
        ("From", f"Mail Delivery System <{mailbox(sender)}>"),
        ("To", ", ".join(map(mailbox, to))),
        ("Subject", f"{hostname}: {topic.subject}"),
        ("Date", date(now)),
        ("Message-ID", make_msgid(domain=hostname)),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Transfer-Encoding", "7bit" if body.isascii() else "8bit"),
    ]
    return field_lines(fields) + b"\r\n" + body


def _times(count: int) -> str:
    return "Once" if count == 1 else f"{count} times"
