"""Attacks on a bridge of one's own, over loopback: what they cost it, and what its other clients notice."""
