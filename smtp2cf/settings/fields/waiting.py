"""Waiting: where mail waits, how long, and who sends reports about it."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from smtp2cf.settings.values import Duration, Size, SpoolUrl, address_such_as, default_state_dir


class WaitingFields(BaseModel):
    """Mail that is not sent yet."""

    spool_url: SpoolUrl = Field(
        SecretStr(""),
        description="Where mail waits that can't be sent yet: sqlite:///path,"
        " postgresql://user:password@host/db, or none, which leaves it to the client. Default:"
        " SQLite in SMTP2CF_STATE_DIR. Or name a file that holds the URL in SMTP2CF_SPOOL_URL_FILE: another"
        " user or password there is used without a restart.",
        examples=["sqlite:////var/lib/smtp2cf/spool.sqlite3"],
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Where the bridge keeps its files. Default: $STATE_DIRECTORY, which systemd sets, or else"
        " /var/lib/smtp2cf for root and ~/.local/state/smtp2cf for others.",
        examples=["/var/lib/smtp2cf"],
    )
    spool_min_free: Size = Field(
        64 * 1024 * 1024,
        ge=0,
        description="New mail gets 452 while the SQLite spool's disk has less free space than this; waiting"
        " mail is still sent. Always at least 1.5 times SMTP2CF_MAX_MESSAGE_SIZE.",
    )
    journal_days: int = Field(
        14,
        ge=0,
        le=3650,
        description="How many days the journal knows what became of each message, for `smtp2cf log` and"
        " `smtp2cf trace`: who sent what to whom, never its content. 0: there is none. See docs/journal.md.",
    )
    journal_subjects: bool = Field(
        False,
        description="yes keeps each message's subject in the journal, too.",
    )
    retry_min: Duration = Field(
        60, gt=0, le=86400, description="Time until the second attempt. It doubles after each attempt."
    )
    retry_max: Duration = Field(3600, gt=0, le=604800, description="Maximum time between two attempts.")
    expire_after: Duration = Field(
        432000,
        gt=0,
        le=2592000,
        description="How long mail is retried. Then its sender gets a DSN.",
    )
    warn_after: Duration = Field(
        14400,
        gt=0,
        description="How long the oldest mail may wait before /readyz and the status page warn about it, and"
        " /readyz?sending is 503.",
    )
    sendmail_drop_dir: Path = Field(
        Path("/var/spool/smtp2cf/drop"),
        description="Where smtp2cf-sendmail leaves mail while no bridge is running, and where the bridge"
        " picks it up. The other SMTP2CF_SENDMAIL_ settings belong to the sendmail command: see"
        " docs/sendmail.md.",
    )
    postmaster: Annotated[str, address_such_as("mailer-daemon@example.com")] = Field(
        "",
        description="The sender of DSNs, in a domain set up at Cloudflare. Default: mailer-daemon@ the"
        " original sender's domain, or another domain that has sent. Mail to <Postmaster> (no domain) goes"
        " there too; without this setting it is refused.",
        examples=["mailer-daemon@example.com"],
    )
