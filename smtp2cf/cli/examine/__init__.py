"""Examine: everything that `smtp2cf check` looks at, one finding after the other.

Each is found out by the code that serves, as far as that changes nothing. Knows no terminal.
"""

from collections.abc import AsyncIterator, Collection, Iterable
from pathlib import Path

from smtp2cf.access.senders import Senders
from smtp2cf.cli.examine import account, configuration, events, files, listeners, webhook
from smtp2cf.cli.examine.finding import Finding, Status, warning
from smtp2cf.settings import accounts, loading
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import AccountTable

__all__ = ["Finding", "Status", "examine"]


async def examine(env_file: Path | None) -> AsyncIterator[Finding]:
    """Look at everything. Where the settings can't be read, that is all there is."""
    async for finding in _findings(env_file):
        # What is well needs no place to be found at.
        lines = [finding.text] if finding.status is Status.OK else loading.named([finding.text], env_file)
        yield finding._replace(text=lines[0])


async def _findings(env_file: Path | None) -> AsyncIterator[Finding]:
    settings, found = configuration.settings_read(env_file)
    for finding in found:
        yield finding
    if settings is None:
        return
    for finding in configuration.secrets_kept(_secrets(settings, env_file)):
        yield finding
    for finding in files.users(settings):
        yield finding
    for finding in files.certificate(settings):
        yield finding
    yield await files.spool(settings)
    if (reports := await files.reports(settings)) is not None:
        yield reports
    for finding in (*files.drop_directory(settings), *webhook.webhook(settings)):
        yield finding
    senders = files.senders_of_users(settings)
    for finding in listeners.listeners(settings, has_users=bool(senders)):
        yield finding
    async for finding in _cloudflare(settings, senders, env_file):
        yield finding


async def _cloudflare(
    settings: Settings, senders: Iterable[Senders], env_file: Path | None
) -> AsyncIterator[Finding]:
    """What each account's API says. A domain is looked up in the account that sends for it."""
    files_of = loading.files_of_secrets(env_file)
    described = [each for each in accounts.tables(settings, files_of) if each.api_token.get_secret_value()]
    if not described:
        yield warning("cloudflare", "not checked: that needs an account and a token")
    own = {each.name: account.domains_of_table(each) for each in settings.accounts}
    others = account.domains_of(settings, senders) - set().union(*own.values())
    anybody = not settings.allowed_sender_domains
    for each in described:
        domains = own.get(each.name, others)
        whose = f"account {each.name}: " if settings.accounts else ""
        of_default = each.name not in own
        async for finding in account.account(settings, each, domains, anybody=anybody and of_default):
            yield finding._replace(text=f"{whose}{finding.text}")
        async for finding in _events(settings, each, domains):
            yield finding._replace(text=f"{whose}{finding.text}")


async def _events(
    settings: Settings, table: AccountTable, domains: Collection[str]
) -> AsyncIterator[Finding]:
    """What there is of the set-up of events, where there is a queue."""
    if not table.events_queue_id:
        return
    sender = accounts.build(settings, table)
    try:
        api = accounts.events_api(settings, sender) if table.name == accounts.DEFAULT else None
        async for finding in events.events(api or sender.client.api, domains, table.events_queue_id):
            yield finding
    finally:
        await sender.aclose()


def _secrets(settings: Settings, env_file: Path | None) -> dict[str, Path]:
    """The files that hold secrets, by what names them."""
    found = {
        f"SMTP2CF_{name.upper()}_FILE": path for name, path in loading.files_of_secrets(env_file).items()
    }
    if env_file is not None and loading.has_secrets(env_file):
        found["--env-file"] = env_file
    if (toml := loading.toml_with_secrets(env_file)) is not None:
        found["SMTP2CF_CONFIG"] = toml
    found |= accounts.token_files(settings)
    if settings.tls_key_file is not None:
        found["SMTP2CF_TLS_KEY_FILE"] = settings.tls_key_file
    if settings.tls_cert_file is not None and files.holds_private_key(settings.tls_cert_file):
        found["SMTP2CF_TLS_CERT_FILE"] = settings.tls_cert_file
    if settings.users_file is not None:
        found["SMTP2CF_USERS_FILE"] = settings.users_file
    return found
