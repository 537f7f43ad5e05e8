"""smtp2cf: an SMTP relay that hands mail to Cloudflare's Email Sending API."""

__version__ = "0.1.0"
