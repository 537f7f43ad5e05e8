"""Limits: how much mail one message, session, client or user may bring."""

from pydantic import BaseModel, Field

from smtp2cf.settings.values import Duration, Limits, Size


class LimitsFields(BaseModel):
    """How much is too much."""

    max_message_size: Size = Field(
        5 * 1024 * 1024,
        ge=1024,
        description="The largest message. 5MiB is Cloudflare's limit, or 25MiB if every recipient is a"
        " verified destination address.",
    )
    max_message_memory: Size = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for messages that are arriving or waiting for an answer, in all sessions"
        " together. Messages beyond it get 452.",
    )
    max_recipients: int = Field(
        1000,
        ge=1,
        le=100000,
        description="Maximum number of recipients of one message. Further ones get 452, and the client sends"
        " to them in another message.",
    )
    max_sessions: int = Field(
        1000,
        ge=1,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions. Further ones get 421.",
    )
    session_timeout: Duration = Field(
        300,
        gt=0,
        le=86400,
        description="How long a client may be silent, or take for one command, before it gets 421. A message"
        " may take this long, plus one second for every 500 octets.",
    )
    client_quota: Limits = Field(
        (),
        description="How much one client address may send, in any time of that length, such as 30"
        " messages/1m, 5000 recipients/1d. More gets 450. Of an IPv6 address the /64 counts. none: no limit.",
        examples=["30 messages/1m, 5000 recipients/1d"],
    )
    user_quota: Limits = Field(
        (),
        description="How much one user may send; written as SMTP2CF_CLIENT_QUOTA. A user may have a quota of"
        " its own in the users file.",
        examples=["1000 messages/1d"],
    )
    sender_quota: Limits = Field(
        (),
        description="How much may come from one sender address (MAIL FROM as the client gave it); written as"
        " SMTP2CF_CLIENT_QUOTA.",
        examples=["100 messages/1h"],
    )
    client_max_sessions: int = Field(
        0,
        ge=0,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions of one client address. 0: no limit.",
    )
    client_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of messages a minute from one client address. 0: no limit. The same as"
        " N messages/1m in SMTP2CF_CLIENT_QUOTA.",
    )
    client_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of recipients a minute from one client address. 0: no limit. The same as"
        " N recipients/1m in SMTP2CF_CLIENT_QUOTA.",
    )
    user_max_sessions: int = Field(
        0,
        ge=0,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions of one user. 0: no limit.",
    )
    user_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of messages a minute from one user. 0: no limit. The same as"
        " N messages/1m in SMTP2CF_USER_QUOTA.",
    )
    user_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of recipients a minute from one user. 0: no limit. The same as"
        " N recipients/1m in SMTP2CF_USER_QUOTA.",
    )
