"""Access: who may send as whom, and what becomes of a sender or a recipient."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from smtp2cf.settings.values import DeniedPatterns, MailAddresses, SenderPatterns, address_such_as


class AccessFields(BaseModel):
    """Who may send, and as whom."""

    users_file: Path | None = Field(
        None,
        description="Users who may log in and send from anywhere, with hashes of their passwords, as written"
        " by `smtp2cf user add`. Re-read when it changes and on SIGHUP. See docs/access.md.",
        examples=["/etc/smtp2cf/users"],
    )
    auth_without_tls: bool = Field(
        False,
        description="yes offers AUTH without TLS: anybody on the network can then read passwords.",
    )
    allowed_sender_domains: SenderPatterns = Field(
        (),
        description="Domains that anybody may send from, separated by commas. example.com does not include"
        " its subdomains; *.example.com is only its subdomains. Default: any.",
        examples=["example.com,*.example.com"],
    )
    check_header_from: bool = Field(
        False,
        description="yes checks From and Sender in the header, not only MAIL FROM, against a user's allowed"
        " senders and SMTP2CF_ALLOWED_SENDER_DOMAINS.",
    )
    sender_default: Annotated[str, address_such_as("noreply@example.com")] = Field(
        "",
        description="Replaces every sender that may not send: one without a domain or at a bare host name,"
        " one that is not in SMTP2CF_ALLOWED_SENDER_DOMAINS, or one whose domain Cloudflare does not know."
        " From and Sender in the header follow. See docs/policy.md.",
        examples=["noreply@example.com"],
    )
    recipients_file: Path | None = Field(
        None,
        description="Who gets mail instead of whom, in the format of sendmail's aliases. [recipients] in the"
        " TOML file takes precedence. Re-read when it changes and on SIGHUP. See docs/recipients.md.",
        examples=["/etc/aliases"],
    )
    allowed_recipients: SenderPatterns = Field(
        (),
        description="To whom mail may go, separated by commas: addresses and domains. example.com does not"
        " include its subdomains. Others get 550. Default: any.",
        examples=["example.com,anna@example.net"],
    )
    denied_recipients: DeniedPatterns = Field(
        (),
        description="To whom no mail may go, separated by commas: addresses and domains. They get 550."
        " Default: none.",
        examples=["*.example.net"],
    )
    redirect_all_to: MailAddresses = Field(
        (),
        description="For staging: all mail goes to these addresses instead, and X-Original-To in the header"
        " says who it was for. So do the bridge's own reports to senders.",
        examples=["staging@example.com"],
    )
    null_sender_address: Annotated[str, address_such_as("bounces@example.com")] = Field(
        "",
        description="Replaces the null sender <> of bounces, which Cloudflare does not accept. Without it"
        " such mail gets 550 5.1.7.",
        examples=["bounces@example.com"],
    )
