"""Webhook: whom events are told over HTTP, and which."""

from pydantic import BaseModel, Field, SecretStr

from smtp2cf.settings.values import WebhookEvents, WebhookSecret, WebhookUrl


class WebhookFields(BaseModel):
    """Where events go as signed JSON."""

    webhook_url: WebhookUrl = Field(
        "",
        description="Where to post what becomes of mail, and what is wrong with the way to Cloudflare: as"
        " JSON, signed as in the Standard Webhooks specification. Needs a spool. See docs/webhook.md.",
        examples=["https://hooks.example.com/mail"],
    )
    webhook_secret: WebhookSecret = Field(
        SecretStr(""),
        description="What events are signed with: whsec_ and 24 to 64 random octets in base64. Two, with a"
        " space between them, both sign while the receiver changes over. Or name a file that holds it in"
        " SMTP2CF_WEBHOOK_SECRET_FILE.",
    )
    webhook_events: WebhookEvents = Field(
        ("mail.bounced", "mail.expired", "mail.complained", "mail.held", "api.*"),
        description="Which events are posted: names, or mail.* for all that begin so. mail.delivered comes"
        " with every message.",
    )
