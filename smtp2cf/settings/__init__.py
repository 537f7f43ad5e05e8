"""The settings: what an operator can set, and what it means to each room.

Only serve and the commands know this room; every other is handed plain values.
"""
