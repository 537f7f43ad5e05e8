"""Who may send: users and their passwords, failed logins, allowed senders (RFC 4954, RFC 6409 §6.1).

Knows no session, no relay and no settings: it is made of plain values and hands out two callables,
`Logins.authenticate` and `SenderRules.refusal`. Take the parts from their modules: argon2 is loaded only
where there are users.
"""
