"""Who may send: users, passwords, failed logins and allowed senders (RFC 4954, RFC 6409 §6.1).

Knows no session, no relay and no settings: it is built from plain values and provides two callables,
`Logins.authenticate` and `SenderRules.refusal`. Import the parts from their modules: argon2 is loaded only if
there are users.
"""
