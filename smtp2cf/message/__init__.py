"""The bytes of a message: its header, its line ends, its 8-bit parts (RFC 5322, RFC 2045).

Works on bytes as they came and changes as few of them as it can; nothing here parses a message and
writes it anew. Knows no envelope, no session, no Cloudflare.

newlines: bare CR and LF, by where they are. header: where it ends, its fields. eightbit: `to_utf8`, for
messages that are not UTF-8; mime, transfer, fields, words, encoded and charset are its parts. dsn:
delivery reports; causes: what they tell people.
"""
