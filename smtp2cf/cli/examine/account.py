"""Account: what Cloudflare says of the token, its permissions, and the domains that are to send."""

from collections.abc import AsyncIterator, Collection, Iterable

from smtp2cf.access.senders import Senders
from smtp2cf.cli.examine.finding import Finding, error, ok, warning
from smtp2cf.cloudflare import setup
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.quota import ask_quota
from smtp2cf.cloudflare.setup import SendingDomain
from smtp2cf.envelope import domain_of
from smtp2cf.reply import SendError, few_in_words
from smtp2cf.settings import accounts
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.fields.tables import AccountTable

DOMAINS_LIMIT = 20
"""Domains that are looked up."""
SHOWN = 5
"""Domains that a line names."""

_ACCEPTED = ok("token", "active")


async def account(
    settings: Settings, table: AccountTable, domains: Collection[str], *, anybody: bool
) -> AsyncIterator[Finding]:
    """Everything that the API can be asked.

    domains: those that are to send through this account, as far as is known. anybody: any other may as well.
    """
    try:
        sender = accounts.build(settings, table)
    except SettingsError as wrong:
        yield error("cloudflare", str(wrong))
        return
    try:
        accepted = False
        async for finding in _token(sender, sender.base_url):
            accepted = finding == _ACCEPTED or accepted
            yield finding
        if accepted:
            yield await _quota(sender.client.api)
            async for finding in _domains(sender.client.api, domains, anybody=anybody):
                yield finding
    finally:
        await sender.aclose()


async def _token(sender: Account, url: str) -> AsyncIterator[Finding]:
    try:
        state = await sender.client.verify_token()
    except SendError as no_answer:
        yield error("cloudflare", f"{no_answer.reply.text} (SMTP2CF_API_BASE_URL is {url})")
        return
    yield ok("cloudflare", f"{url} answers")
    if not state.accepted:
        yield error("token", f"{state.reason}: make a new one with the permission Email Sending: Edit")
        return
    yield _ACCEPTED
    try:
        refusal = await setup.sending_refusal(sender.client.api)
    except SendError as no_answer:
        refusal = no_answer
    if refusal is not None:
        yield error("token", f"it may not send: {refusal.reply.text}")
    else:
        yield ok("token", "it may send")


async def _quota(api: Api) -> Finding:
    try:
        quota, why = await ask_quota(api)
    except SendError as no_answer:
        return warning("quota", f"unknown: {no_answer.reply.text}")
    if quota is None:
        return ok("quota", f"unknown: {why}")
    if quota.used_up:
        return warning("quota", f"{quota}; mail waits until then")
    return warning("quota", f"{quota}; it will soon be used up") if quota.is_low else ok("quota", str(quota))


async def _domains(api: Api, domains: Collection[str], *, anybody: bool) -> AsyncIterator[Finding]:
    """What is set up for sending. A token need not be allowed to ask; mail goes out all the same."""
    try:
        if anybody:
            yield await _any_domain(api)
        for domain in sorted(domains)[:DOMAINS_LIMIT]:
            async for finding in _domain(api, domain):
                yield finding
    except SendError as unknown:
        yield warning(
            "domains",
            f"Cloudflare does not say what is set up for sending: {_why(unknown, 'Zone: Read')}",
        )
    if len(domains) > DOMAINS_LIMIT:
        yield warning("domains", f"{len(domains) - DOMAINS_LIMIT} more domains were not checked")


async def _any_domain(api: Api) -> Finding:
    zones = await setup.zones(api)
    if not zones:
        return warning("domains", f"{_UNSEEN_ALL}, so it is unknown which domains are set up for sending")
    names = [
        found.name for zone in zones for found in await setup.sending_domains(api, zone) if found.enabled
    ]
    if not names:
        return error("domains", f"no domain is set up for sending: {_SET_UP}")
    return ok("domains", f"set up for sending: {few_in_words(names, SHOWN)}")


async def _domain(api: Api, domain: str) -> AsyncIterator[Finding]:
    zone = await setup.zone_of(api, domain)
    if zone is None:
        yield warning(
            "domains", f"{domain}: {_UNSEEN}, so it is unknown whether the domain is set up for sending"
        )
        return
    if zone.status not in ("", "active"):
        yield error(
            "domains", f"{domain}: its zone {zone.name} is {zone.status}, and sends only once it is active"
        )
    found = [each for each in await setup.sending_domains(api, zone) if _serves(each, domain)]
    if not found:
        yield error("domains", f"{domain} is not set up for sending, so mail from it is refused: {_SET_UP}")
    elif not any(each.enabled for each in found):
        yield error(
            "domains", f"{domain}: sending is disabled: enable it under Email Sending in the dashboard"
        )
    else:
        yield await _records(api, domain, next(each for each in found if each.enabled))


def _serves(found: SendingDomain, domain: str) -> bool:
    """A pattern of subdomains needs one at least."""
    return found.covers(domain) or (domain.startswith("*.") and found.name.endswith(domain[1:]))


async def _records(api: Api, domain: str, found: SendingDomain) -> Finding:
    try:
        missing = await setup.missing_records(api, found)
    except SendError as unknown:
        return ok(
            "domains",
            f"{domain} is set up for sending; its DNS records were not checked: {_why(unknown, 'DNS: Read')}",
        )
    if missing:
        return error(
            "domains",
            f"{domain} is set up for sending, but its zone lacks {few_in_words(missing, SHOWN)}: add them"
            " under Email Sending in the dashboard",
        )
    return ok("domains", f"{domain} is set up for sending, and its DNS records are there")


def _why(unknown: SendError, permission: str) -> str:
    if isinstance(unknown, TokenRefusedError):
        return f"the token lacks the permission {permission}, which is not needed to send mail"
    return unknown.reply.text


def domains_of(settings: Settings, users: Iterable[Senders]) -> set[str]:
    """The domains that the settings say will send, in lower case; `*.` in front for their subdomains."""
    allowed = Senders.parse(settings.allowed_sender_domains)
    addresses = [address for address in (settings.postmaster, settings.null_sender_address) if address]
    found = {address.rpartition("@")[2].lower() for address in addresses}
    for senders in (allowed, *users):
        found |= senders.domains | {domain for _, domain in senders.addresses}
        found |= {f"*.{parent}" for parent in senders.parents}
    return {_in_sent_form(domain) for domain in found if "." in domain}


def domains_of_table(table: AccountTable) -> set[str]:
    """The same, of one account's own."""
    senders = Senders.parse(table.sender_domains)
    found = senders.domains | {domain for _, domain in senders.addresses}
    return {_in_sent_form(domain) for domain in found | {f"*.{parent}" for parent in senders.parents}}


def _in_sent_form(domain: str) -> str:
    """As text where a name has no such form: nothing is sent from it, and it is only looked up."""
    wildcard = "*." if domain.startswith("*.") else ""
    return wildcard + domain_of(f"@{domain.removeprefix(wildcard)}")


_UNSEEN = "the token finds no zone for it (does it have the permission Zone: Read?)"
_UNSEEN_ALL = "the token finds no zone (does it have the permission Zone: Read?)"
_SET_UP = "add it under Email Sending in Cloudflare's dashboard; that can take 15 minutes to have an effect"
