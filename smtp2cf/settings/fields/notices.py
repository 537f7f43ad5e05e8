"""Notices: who is told of what nobody else can be told of."""

from typing import Annotated

from pydantic import BaseModel, Field

from smtp2cf.access.limit import OfReports
from smtp2cf.settings.values import ReportLimits, address_such_as


class NoticesFields(BaseModel):
    """What the operator gets by mail."""

    operator: Annotated[str, address_such_as("you@example.com")] = Field(
        "",
        description="Who is told by mail of what can be told to nobody else: a report that can't be"
        " delivered, held mail, a refused token, a quota at 80 %, a certificate or a disk at its end. At"
        " most one mail an hour about each kind of thing; needs a spool. See docs/notices.md.",
        examples=["you@example.com"],
    )
    operator_gets_bounces: bool = Field(
        False,
        description="yes: SMTP2CF_OPERATOR also gets a copy of every report (DSN) of a failure, for senders"
        " such as noreply@ that nobody reads; also where the sender wants none (NOTIFY=NEVER).",
    )
    dsn_quota: ReportLimits = Field(
        (OfReports(100, "messages", 3600),),
        description="How many reports (DSNs) may go to one address, in any time of that length, such as"
        " 100/1h, 500/1d. Further ones are not sent, which the log and SMTP2CF_OPERATOR are told of: whoever"
        " forges an address can't have it flooded. none: no limit.",
    )
