"""`python -m fuzz.run TARGET [libFuzzer's options]`: one target under atheris, until it is stopped."""

import sys

import atheris

with atheris.instrument_imports(include=["smtp2cf"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    atheris.enabled_hooks.add("RegEx")
    atheris.enabled_hooks.add("str")
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda octets: target(bytes(octets)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
