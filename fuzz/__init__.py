"""Fuzzing with atheris: `make fuzz [TARGET=name] [SECONDS=60]`. Linux, CPython; not part of `make test`.

A target is a function of bytes that asserts what must hold for any of them; targets.py lists them. What
fuzzing finds becomes a file below corpus/TARGET, which the ordinary tests replay (tests/fuzz).
"""
