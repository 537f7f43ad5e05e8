"""Account: the Cloudflare account that sends, and its API."""

from pydantic import AliasChoices, BaseModel, Field, SecretStr

from smtp2cf.cloudflare.tally import Rate
from smtp2cf.settings.values import ApiRate, BaseUrl, Duration, Token


class AccountFields(BaseModel):
    """What is known of the account."""

    account_id: str = Field(
        "",
        validation_alias=AliasChoices("SMTP2CF_ACCOUNT_ID", "CLOUDFLARE_ACCOUNT_ID"),
        pattern=r"^[\w-]*$",
        description="The Cloudflare account that sends. CLOUDFLARE_ACCOUNT_ID works too.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    api_token: Token = Field(
        SecretStr(""),
        validation_alias=AliasChoices("SMTP2CF_API_TOKEN", "CLOUDFLARE_API_TOKEN"),
        description="An API token with the permission Email Sending: Edit. CLOUDFLARE_API_TOKEN works too. Or"
        " name a file that holds the token in SMTP2CF_API_TOKEN_FILE, which is re-read when it changes and on"
        " SIGHUP.",
    )
    api_base_url: BaseUrl = Field(
        "https://api.cloudflare.com/client/v4",
        pattern=r"^https?://[^\s/]+.*$",
        description="The URL of Cloudflare's API. HTTPS_PROXY and NO_PROXY of the environment apply.",
    )
    api_timeout: Duration = Field(60, gt=0, le=600, description="Maximum time for one API call.")
    api_concurrency: int = Field(100, ge=1, le=10000, description="Maximum number of simultaneous API calls.")
    api_rate: ApiRate = Field(
        Rate(1200, 300.0),
        description="Maximum number of API calls in how many seconds, for all bridges on one spool together."
        " Cloudflare's limit is 1200/300 for each token, and who exceeds it is refused for five minutes: set"
        " less if other programs use the same token. none: no limit but what Cloudflare's answers say;"
        " the default of a sandbox.",
    )
