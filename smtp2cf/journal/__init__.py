"""What happened: the log, one line for each event of a message, the counters, and tasks that fail.

Knows envelopes and replies, no session, no spool and no HTTP.
"""
