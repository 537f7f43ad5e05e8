"""Messages: when a client is answered, and what may be changed in a message."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from smtp2cf.settings.values import LOWER_CASE, Duration, FieldNames


class MessagesFields(BaseModel):
    """What becomes of a message."""

    mode: Annotated[Literal["direct", "queue"], LOWER_CASE] = Field(
        "direct",
        description="direct answers a client after Cloudflare has answered. queue answers 250 as soon as the"
        " message is safe in the spool.",
    )
    reply_timeout: Duration = Field(
        10,
        gt=0,
        le=3600,
        description="How long a client waits in direct mode. If Cloudflare has not answered by then, the"
        " message is kept in the spool and the client gets 250; at once if it is known that no call can be"
        " made. Without a spool: how long a message may wait for the account's rate limit before its client"
        " gets 451.",
    )
    partial_bounce: Annotated[Literal["accept", "reject"], LOWER_CASE] = Field(
        "accept",
        description="If some recipients bounced and others got the mail: accept answers 250, names the"
        " bounced ones and sends a DSN. reject answers 5xx; many clients then report every"
        " recipient as unsent.",
    )
    non_utf8: Annotated[Literal["convert", "reject"], LOWER_CASE] = Field(
        "convert",
        description="Message parts that are not UTF-8: convert re-encodes them so that they read the same,"
        " reject refuses the message.",
    )
    bare_newline: Annotated[Literal["normalize", "reject"], LOWER_CASE] = Field(
        "normalize",
        description="A bare CR or LF in a message: normalize makes it CRLF in a body and a space in a header"
        " (unless all lines end with LF alone). reject answers 550, and 500 to a command that ends"
        " with LF alone.",
    )
    on_invalid: Annotated[Literal["repair", "reject"], LOWER_CASE] = Field(
        "repair",
        description="A message that Cloudflare calls invalid: repair tries it once more without the header"
        " fields that Cloudflare claims as its own and with quotes where From needs them (docs/invalid.md)."
        " reject answers 554.",
    )
    add_missing_headers: bool = Field(
        False,
        description="Add Date, Message-ID, and From (the sender of MAIL FROM) to messages that lack them.",
    )
    drop_headers: FieldNames = Field(
        (),
        description="Header fields to remove from every message, separated by commas. Default: none.",
        examples=["bcc,return-path"],
    )
