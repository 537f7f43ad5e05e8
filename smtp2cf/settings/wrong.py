"""Wrong values: one line for the operator that says where a setting is, its value, and what it must be.

Turns pydantic's errors into our words, and writes values the way an operator would.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from smtp2cf.settings.fields import PREFIX, Plain
from smtp2cf.settings.units import as_duration, as_size
from smtp2cf.settings.values import READ_DURATION, READ_SIZE

FORMS = {
    "account_id": "letters, digits, - and _",
    "i_am_an_open_relay": "yes or no",
    "auth_without_tls": "yes or no",
    "add_missing_headers": "yes or no",
    "check_header_from": "yes or no",
    "journal_subjects": "yes or no",
    "operator_gets_bounces": "yes or no",
    "api_base_url": "a URL such as https://api.cloudflare.com/client/v4",
    "hostname": "a host name such as mx1.example.com",
    "events_queue_id": "letters, digits, - and _",
    "socket_mode": "permissions in octal, such as 0660",
}
"""What a setting may be, where pydantic would show a pattern or nothing that helps."""
UNCLEAR = ("string_pattern_mismatch", "bool_parsing")
"""Kinds of error whose words FORMS replaces."""
_LOGIN = re.compile(r"//.*@", re.DOTALL)
"""A login in a URL, which is not shown."""
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""The kinds of bounds that a setting may have, in words."""


def line_of(problem: Mapping[str, Any], given: Mapping[str, str], places: Mapping[str, str]) -> str:
    """The line for one of pydantic's errors. given: the variables as they were set.

    places: where those stand that no variable has set.
    """
    name = str(problem["loc"][0])
    variable = name if name.isupper() else f"{PREFIX}{name.upper()}"
    setting = variable.split("_", 1)[1].lower()
    field = Plain.model_fields.get(setting)
    if not given.get(variable) and given.get(f"CLOUDFLARE_{setting.upper()}"):
        variable = f"CLOUDFLARE_{setting.upper()}"
    is_secret = field is None or field.annotation is SecretStr
    text = _LOGIN.sub("//***@", given.get(variable, problem["input"]).strip())
    was = "its value" if is_secret else repr(text)
    return f"{places.get(variable, variable)}: {was} is wrong: {why(problem, setting, field)}"


def why(problem: Mapping[str, Any], setting: str, field: FieldInfo | None) -> str:
    """What a value must be. problem: one of pydantic's errors. field: None for the name of a file."""
    if problem["type"].startswith("int_"):
        return "it must be a whole number"
    if problem["type"] in UNCLEAR:
        return f"it must be {FORMS[setting]}"
    for bound, words in BOUNDS.items():
        if field is not None and bound in problem.get("ctx", {}):
            return f"it must be {words} {as_written(problem['ctx'][bound], field)}"
    said = str(problem["msg"]).removeprefix("Value error, ").partition(", unable to parse")[0]
    return said.replace("Input should be", "it must be")


def as_written(value: object, field: FieldInfo) -> str:
    """A value of a field as an operator would write it."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if READ_DURATION in field.metadata:
        return as_duration(float(str(value)))
    return as_size(int(str(value))) if READ_SIZE in field.metadata else str(value)
