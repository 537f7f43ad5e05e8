"""What happened: the log, one line for each event of a message, the counters, and tasks that fail; and the
journal, a searchable record of what became of every message (`record` says what it promises).

Knows envelopes and replies, no session, no spool and no HTTP.
"""
