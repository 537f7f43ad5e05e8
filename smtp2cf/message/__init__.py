"""The bytes of a message: its header, its line ends, its 8-bit parts (RFC 5322, RFC 2045).

Works on the bytes as they came and changes as few as possible; nothing here parses a message and writes it
again. Knows no session and no Cloudflare.

newlines: bare CR and LF, by where they are. header: where it ends, its fields. eightbit: `to_utf8`, for
messages that are not UTF-8; mime, transfer, fields, charset and encoded_words_* are its parts. originators:
the addresses in From and Sender. repair: without what Cloudflare refuses; display_names is its part for From.
dsn: delivery reports, with dsn_fields; causes: what they tell people.
"""
