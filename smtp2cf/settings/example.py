"""The examples: config.example.env and config.example.toml, generated from the settings' own descriptions.

`python -m smtp2cf.settings.example env` prints one, `toml` the other, `schema` the schema of TOML files.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from smtp2cf.settings import toml_file
from smtp2cf.settings.fields import PREFIX, Plain, Settings
from smtp2cf.settings.fields.tables import TABLES, header_of
from smtp2cf.settings.schema import schema
from smtp2cf.settings.wrong import as_written

LINE_LIMIT = 100
"""Characters of a comment."""
UNITS = "# Durations are written 90s, 15m, 36h or 5d (a number alone is seconds), sizes 25MiB (bytes)."
_VARIABLE = re.compile(rf"{PREFIX}([A-Z_]*[A-Z])")


def example_env() -> str:
    """The text of config.example.env: every setting with its description and default."""
    lines = [
        "# smtp2cf's settings with their defaults, for `smtp2cf serve --env-file` or the environment.",
        "# Generated from the settings' descriptions by `make config`.",
        UNITS,
        "",
        "# A TOML file with more settings, such as config.example.toml. What is set here takes precedence.",
        f"#{toml_file.VARIABLE}={toml_file.DEFAULT}",
    ]
    for name, field in Plain.model_fields.items():
        lines += ["", *_wrapped(field.description or "")]
        lines.append(f"#{PREFIX}{name.upper()}={_value(field)}")
    return "\n".join(lines) + "\n"


def example_toml() -> str:
    """The text of config.example.toml: the same, by the names in lower case."""
    lines = [
        f"# smtp2cf's settings with their defaults, for {toml_file.DEFAULT} or the file that",
        f"# {toml_file.VARIABLE} names. The environment and --env-file take precedence.",
        "# Generated from the settings' descriptions by `make config`.",
        UNITS,
        '# What is separated by commas may also be an array: ["10.0.0.0/8", "fd00::/8"].',
    ]
    for name, field in Plain.model_fields.items():
        lines += ["", *_wrapped(_in_keys(field))]
        lines.append(f"#{name} = {_toml_value(_value(field), field)}")
    lines += ["", "# Tables: everything above stands above the first of them."]
    for name, table in TABLES.items():
        description = Settings.model_fields[table.setting]
        lines += ["", *_wrapped(_in_keys(description)), f"#{header_of(name)}"]
        lines += _patterns(description) if table.row is None else _row(table.row.model_fields)
    return "\n".join(lines) + "\n"


def _patterns(field: FieldInfo) -> Iterator[str]:
    """The example of a table of patterns."""
    for pattern, address in (field.examples or [{}])[0].items():
        yield f"#{json.dumps(pattern)} = {json.dumps(address)}"


def _row(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """Every key of a table of which there may be several."""
    for name, field in fields.items():
        yield from _wrapped(_in_keys(field))
        yield f"#{name} = {_toml_value(_value(field), field)}"


def toml_schema() -> str:
    """The text of smtp2cf.schema.json."""
    return schema(_in_keys)


def _in_keys(field: FieldInfo) -> str:
    """Its description, which names other settings as the TOML file does."""
    return _VARIABLE.sub(_as_key, field.description or "")


def _as_key(variable: re.Match[str]) -> str:
    """The key in TOML for a variable; other commands' variables stay what they are."""
    key = variable[1].lower()
    return key if key in toml_file.names() else variable[0]


def _value(field: FieldInfo) -> str:
    """The default as an operator would write it, an example where there is none, or else nothing."""
    has_none = field.default_factory is not None or field.is_required()
    if has_none or field.default in (None, "", (), SecretStr("")):
        return str(field.examples[0]) if field.examples else ""
    return as_written(field.default, field)


def _toml_value(text: str, field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true" if text == "yes" else "false"
    return text if field.annotation in (int, float) and text.isdecimal() else json.dumps(text)


def _wrapped(text: str) -> list[str]:
    lines = ["#"]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > LINE_LIMIT:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


if __name__ == "__main__":
    sys.stdout.write({"env": example_env, "toml": example_toml, "schema": toml_schema}[sys.argv[1]]())
