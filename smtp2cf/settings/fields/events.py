"""Events: where Cloudflare says what became of mail after its answer."""

from pydantic import BaseModel, Field, SecretStr

from smtp2cf.settings.values import Duration, Token


class EventsFields(BaseModel):
    """The queue that events are pulled from."""

    events_queue_id: str = Field(
        "",
        pattern=r"^[\w-]*$",
        description="The Cloudflare Queue with the events of this account's mail: with it, bounces that"
        " become known only later are reported to the sender too. A queue belongs to one spool.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    events_api_token: Token = Field(
        SecretStr(""),
        description="An API token with the permissions Queues: Read and Queues: Edit, if the API token itself"
        " lacks them; it has a rate of its own. Or name a file that holds it in"
        " SMTP2CF_EVENTS_API_TOKEN_FILE.",
    )
    unanswered_wait: Duration = Field(
        150,
        ge=0,
        le=1800,
        description="With events: how long a call whose answer was lost is not repeated, because an event may"
        " show that it went through. 0: repeat it as without events.",
    )
