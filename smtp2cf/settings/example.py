"""The example: config.example.env, generated from the settings' own descriptions.

`python -m smtp2cf.settings.example` prints it.
"""

import sys

from pydantic import SecretStr

from smtp2cf.settings.fields import PREFIX, Settings
from smtp2cf.settings.wrong import as_written

LINE_LIMIT = 100
"""Characters of a comment."""


def example_env() -> str:
    """The text of config.example.env: every setting with its description and default."""
    lines = [
        "# smtp2cf's settings with their defaults, for `smtp2cf serve --env-file` or the environment.",
        "# Generated from the settings' descriptions by `make config`.",
        "# Durations are written 90s, 15m, 36h or 5d (a number alone is seconds), sizes 25MiB (bytes).",
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", *_wrapped(field.description or "")]
        variable = f"{PREFIX}{name.upper()}"
        if field.default_factory is not None or field.default in (None, "", (), SecretStr("")):
            lines.append(f"#{variable}={field.examples[0] if field.examples else ''}")
        else:
            lines.append(f"#{variable}={as_written(field.default, field)}")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    lines = ["#"]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > LINE_LIMIT:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


if __name__ == "__main__":
    sys.stdout.write(example_env())
