"""Once: what relays one message in this process, without a bridge, is built, used and closed here."""

import asyncio
from collections.abc import Sequence

from smtp2cf.journal import logs
from smtp2cf.relay import Relay, once
from smtp2cf.serve.addresses import AddressesInUse
from smtp2cf.settings import accounts, check, loading, rooms
from smtp2cf.smtpd import judge


def relay_once(
    mail: tuple[str, str],
    recipients: Sequence[tuple[str, str]],
    message: bytes,
    written_at: float,
    settle: once.Settle,
) -> bool:
    """Relay one message without a bridge, with the settings of the environment.

    mail, recipients: addresses, and the parameters of MAIL and RCPT. written_at: seconds since the epoch.
    settle: is told every recipient's outcome. Returns whether the sender was told. Raises SettingsError.
    """
    settings = loading.load()
    check.require_account(settings)
    logs.configure("error", settings.log_format)
    without_users = settings.model_copy(update={"users_file": None})
    addresses = AddressesInUse(without_users, may_change=False)
    judged = judge(addresses.policy(settings), mail, recipients, written_at)

    async def run_once() -> bool:
        built = accounts.build_all(settings, loading.files_of_secrets())
        try:
            relay = Relay(
                accounts.choice(settings, built),
                rooms.message_policy(settings),
                bounce=rooms.bounce_policy(settings),
                sender_refusal=rooms.access(without_users, addresses.of_senders).sender_refusal,
                rewriting=addresses.rewriting,
                senders=addresses.senders,
            )
            return await once.relay_once(
                relay,
                judged,
                message,
                settle,
                expires=written_at + settings.expire_after,
                drain_timeout=settings.api_timeout,
            )
        finally:
            for account in built:
                await account.aclose()

    return asyncio.run(run_once())
