"""Running: what people and probes see of the bridge: pages, log, the stop."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings.values import LOWER_CASE, Duration, Endpoints, HostNames


class RunningFields(BaseModel):
    """How the bridge is run."""

    admin_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 8025),),
        description="Where the status page, /livez, /readyz and /metrics are. none: nowhere.",
    )
    admin_hosts: HostNames = Field(
        (),
        description="Host names by which the status page, /metrics and /queue may be reached, separated by"
        " commas. localhost, IP addresses, this host's name and SMTP2CF_HOSTNAME always work."
        " Other names are refused, because a web page could point them here.",
        examples=["smtp2cf.internal,smtp2cf"],
    )
    drain_timeout: Duration = Field(
        30, ge=0, le=3600, description="How long transactions in progress may take to finish after SIGTERM."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOWER_CASE] = Field(
        "info", description="The lowest level that is logged."
    )
    log_format: Annotated[Literal["auto", "console", "json"], LOWER_CASE] = Field(
        "auto", description="auto is console on a terminal, otherwise json."
    )
