"""Greetings: a server's first words, and its answers to HELO, EHLO and LHLO, which say what it offers."""

import functools

from smtp2cf.smtpd.listener import Listener


@functools.lru_cache(maxsize=64)
def banner(hostname: str, *, lmtp: bool) -> bytes:
    """The first words."""
    return f"220 {hostname} {'LMTP' if lmtp else 'ESMTP'} smtp2cf\r\n".encode()


@functools.lru_cache(maxsize=64)
def helo(hostname: str) -> bytes:
    """The answer to HELO."""
    return f"250 {hostname}\r\n".encode()


def ehlo(listener: Listener, *, secure: bool) -> bytes:
    """The answer to EHLO and LHLO."""
    rules, policy = listener.rules, listener.rules.policy
    return _offer(
        policy.hostname,
        policy.max_message_size,
        policy.max_recipients,
        lmtp=listener.lmtp,
        starttls=listener.offers_starttls and not secure,
        auth=rules.may_authenticate(secure=secure),
    )


@functools.lru_cache(maxsize=64)
def _offer(hostname: str, size: int, recipients: int, *, lmtp: bool, starttls: bool, auth: bool) -> bytes:
    words = [hostname, "PIPELINING", f"SIZE {size}", "8BITMIME", "SMTPUTF8"]
    words += ["ENHANCEDSTATUSCODES", "DSN", "CHUNKING", f"LIMITS RCPTMAX={recipients}"]
    if not lmtp:
        words.append("PRDR")
    if starttls:
        words.append("STARTTLS")
    if auth:
        words.append("AUTH PLAIN LOGIN")
    words.append("HELP")
    return "".join(f"250-{word}\r\n" for word in words[:-1]).encode() + f"250 {words[-1]}\r\n".encode()
