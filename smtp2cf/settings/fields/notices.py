"""Notices: who is told of what nobody else can be told of."""

from typing import Annotated

from pydantic import BaseModel, Field

from smtp2cf.settings.values import address_such_as


class NoticesFields(BaseModel):
    """What the operator gets by mail."""

    operator: Annotated[str, address_such_as("you@example.com")] = Field(
        "",
        description="Who is told by mail of what can be told to nobody else: a report that can't be"
        " delivered, held mail, a refused token, a quota at 80 %, a certificate or a disk at its end. At"
        " most one mail an hour about each kind of thing; needs a spool. See docs/notices.md.",
        examples=["you@example.com"],
    )
