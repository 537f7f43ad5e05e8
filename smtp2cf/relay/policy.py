"""What is done with a message: the settings of the relay, as plain values."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePolicy:
    """What is done with a message before it goes out, and when its client is answered.

    null_sender_address: stands in for `<>`; "" if nothing does. on_invalid: whether a message that Cloudflare
    calls invalid is tried repaired. drop_headers: field names in lower case. add_missing_headers: whether a
    message gets the Date, From and Message-ID that it lacks. hostname: where a Message-ID is from.
    check_header_from: whether From and Sender, too, must be addresses the client may send as. mode: answer
    after Cloudflare has, or as soon as the message is in the spool. reply_timeout: seconds a client waits for
    Cloudflare's answer, or for its turn under the account's limits.
    """

    null_sender_address: str = ""
    partial_bounce: Literal["accept", "reject"] = "accept"
    non_utf8: Literal["convert", "reject"] = "convert"
    bare_newline: Literal["normalize", "reject"] = "normalize"
    on_invalid: Literal["repair", "reject"] = "repair"
    drop_headers: frozenset[str] = frozenset()
    add_missing_headers: bool = False
    check_header_from: bool = False
    mode: Literal["direct", "queue"] = "direct"
    reply_timeout: float = 10.0
    hostname: str = "localhost"
