"""Where the bridge listens: endpoints, sockets of its own and of systemd, certificates, signals.

Knows what may be spoken on a socket by its name alone, and no settings.
"""
