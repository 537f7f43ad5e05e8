"""Replies of the SMTP session itself.

RFC 5321 §4.2, RFC 2034, RFC 3463, RFC 5248. What became of a message is the relay's to say.
"""

from smtp2cf.reply import Reply

RESET = Reply(250, "2.0.0", "OK")
SENDER_OK = Reply(250, "2.1.0", "sender OK")
RECIPIENT_OK = Reply(250, "2.1.5", "recipient OK")
GOODBYE = Reply(221, "2.0.0", "goodbye")
CANNOT_VERIFY = Reply(252, "2.1.5", "cannot verify, but will accept mail for it and try to deliver it")

BAD_COMMAND = Reply(500, "5.5.2", "not a command")
UNKNOWN_COMMAND = Reply(500, "5.5.1", "unknown command")
NO_LINE = Reply(500, "5.5.2", "the command contains a bare CR or a NUL")
NO_CRLF = Reply(
    500, "5.5.2", "a command must end with CR LF, not with LF alone (SMTP2CF_BARE_NEWLINE=reject)"
)
COMMAND_TOO_LONG = Reply(500, "5.5.2", "the command line is too long")
NO_HELLO = Reply(503, "5.5.1", "send HELO or EHLO first (in LMTP: LHLO)")
NO_MAIL = Reply(503, "5.5.1", "send MAIL FROM first")
NO_RCPT = Reply(503, "5.5.1", "send RCPT TO first: there are no recipients")
NESTED_MAIL = Reply(503, "5.5.1", "MAIL FROM was given already: send DATA or RSET")
NULL_RECIPIENT = Reply(553, "5.1.3", "<>: the null address can't be a recipient")
HTTP_CLIENT = Reply(554, "5.5.0", "this is an SMTP server, not HTTP")
TLS_CLIENT = Reply(
    554, "5.5.0", "this is SMTP without TLS: turn off TLS (SSL) in the client, or use another port"
)

PROXY_CLIENT = Reply(
    554, "5.7.1", "PROXY protocol not accepted from this address: see SMTP2CF_PROXY_NETWORKS"
)

READY_FOR_TLS = Reply(220, "2.0.0", "go ahead with TLS")
NO_TLS = Reply(502, "5.5.1", "TLS is not offered here: see SMTP2CF_TLS_CERT_FILE")
TLS_REQUIRED = Reply(530, "5.7.0", "send STARTTLS first: mail is taken only over TLS here")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is on already")
TLS_FIRST = Reply(538, "5.7.11", "AUTH requires TLS: see SMTP2CF_TLS_CERT_FILE, SMTP2CF_AUTH_WITHOUT_TLS")
NO_AUTH = Reply(502, "5.5.1", "AUTH is not offered here: see SMTP2CF_USERS_FILE")
AUTHENTICATED = Reply(235, "2.7.0", "authenticated")
AUTHENTICATED_ALREADY = Reply(503, "5.5.1", "already authenticated")
AUTH_IN_TRANSACTION = Reply(503, "5.5.1", "no AUTH during a transaction: send DATA or RSET first")
AUTH_TOO_LONG = Reply(500, "5.5.6", "the line is too long for AUTH")
SAY_LHLO = Reply(500, "5.5.1", "this is LMTP: send LHLO")
SAY_EHLO = Reply(500, "5.5.1", "this is SMTP: send EHLO or HELO")
BDAT_BEGUN = Reply(503, "5.5.1", "BDAT has begun: continue with BDAT, or send RSET")
NO_EXPN = Reply(502, "5.5.1", "EXPN not implemented")
SEND_MESSAGE = b"354 end with <CRLF>.<CRLF>\r\n"
PER_RECIPIENT = b"353 each recipient's answer follows, then one for all\r\n"
"""What announces PRDR's answers (draft-hall-prdr); 3yz replies have no enhanced code."""

TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors, goodbye")
TOO_MANY_SESSIONS = Reply(421, "4.3.2", "too many sessions (SMTP2CF_MAX_SESSIONS), try again later")
NO_FILES = Reply(421, "4.3.1", "no file descriptors left for another session, try again later")
NO_ROOM = Reply(
    452, "4.3.1", "too much mail at once (SMTP2CF_MAX_MESSAGE_MEMORY), send the message again later"
)
TIMED_OUT = Reply(421, "4.4.2", "nothing heard for too long (SMTP2CF_SESSION_TIMEOUT), goodbye")
TOO_SLOW = Reply(421, "4.4.2", "the message comes too slowly (SMTP2CF_SESSION_TIMEOUT), goodbye")
SHUTTING_DOWN = Reply(421, "4.3.2", "shutting down, try again later")
INTERNAL_ERROR = Reply(451, "4.3.0", "internal error, try again later; the log has the cause")


def proxy_expected(client: str) -> Reply:
    """554 for a proxy that doesn't say whom it connects for."""
    return Reply(554, "5.7.1", f"{client} is in SMTP2CF_PROXY_NETWORKS, but sent no PROXY header")


def syntax(usage: str) -> Reply:
    """501 with how the command is written."""
    return Reply(501, "5.5.4", f"syntax: {usage}")


def too_big(limit: int) -> Reply:
    """552 for a message larger than `limit` octets."""
    return Reply(552, "5.3.4", f"the message is larger than {limit} octets (SMTP2CF_MAX_MESSAGE_SIZE)")


def too_many_recipients(limit: int) -> Reply:
    """452 for a recipient beyond the limit: the client sends these in another transaction."""
    return Reply(452, "4.5.3", f"more than {limit} recipients (SMTP2CF_MAX_RECIPIENTS)")


def relaying_denied(client: str, networks: str) -> Reply:
    """550 for a client that may not relay, naming its address and the settings.

    networks: what names the networks that may.
    """
    where = f"{client} may not relay here: it is not in {networks}"
    return Reply(550, "5.7.1", f"{where}, and no users may authenticate (SMTP2CF_USERS_FILE)")


def authentication_required(client: str, networks: str, *, tls_first: bool) -> Reply:
    """530 for a client that may relay once it has authenticated (RFC 4954 §6).

    networks: what names those that may without, "" where nobody may.
    """
    what = "start TLS and authenticate" if tls_first else "authenticate"
    why = f"{client} is not in {networks}, so only users" if networks else "only users"
    return Reply(
        530, "5.7.0", f"{what} first: {why} of SMTP2CF_USERS_FILE may relay{'' if networks else ' here'}"
    )


def chunk_taken(size: int) -> Reply:
    """250 for a BDAT chunk that is not the last."""
    return Reply(250, "2.0.0", f"{size} octets taken")


def for_recipient(reply: Reply) -> Reply:
    """A recipient's own reply: a success is about the address (RFC 3463 §3.2)."""
    return reply._replace(status="2.1.5") if reply.status == "2.0.0" else reply
