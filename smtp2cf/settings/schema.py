"""The schema: smtp2cf.schema.json, a JSON Schema (draft 7) for the TOML file, generated from the settings.

Editors use it to complete keys and to mark mistakes. It refuses no value as the example writes it; the bridge
itself checks more. `python -m smtp2cf.settings.example schema` prints it.
"""

import json
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from smtp2cf.settings.fields import Plain, Settings
from smtp2cf.settings.fields.tables import TABLES
from smtp2cf.settings.secret_files import KINDS

DRAFT = "http://json-schema.org/draft-07/schema#"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_NUMBERS = {bool: "boolean", int: "integer", float: "number"}


def schema(describe: Callable[[FieldInfo], str]) -> str:
    """The text of smtp2cf.schema.json. describe: gives a setting's description."""
    properties = _properties(Plain.model_fields, describe)
    for name in KINDS:
        properties[f"{name}_file"] = {"description": f"A file that holds {name}.", "type": "string"}
    for name, table in TABLES.items():
        description = describe(Settings.model_fields[table.setting])
        if table.row is None:
            properties[name] = {"description": description, "type": "object", **_addresses(name)}
        else:
            row = _object(_properties(table.row.model_fields, describe))
            row["required"] = [key for key, field in table.row.model_fields.items() if field.is_required()]
            properties[name] = {"description": description, "type": "array", "items": row}
    document = {
        "$schema": DRAFT,
        "title": "smtp2cf.toml",
        "description": "The settings of smtp2cf.",
        **_object(properties),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _properties(
    fields: Mapping[str, FieldInfo], describe: Callable[[FieldInfo], str]
) -> dict[str, dict[str, Any]]:
    return {name: {"description": describe(field), **_kind(field)} for name, field in fields.items()}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _addresses(table: str) -> dict[str, Any]:
    """What a table of patterns has for each of them."""
    one = {"type": "string"}
    several = {"type": ["string", "array"], "items": one, "minItems": 1}
    return {"additionalProperties": several if table == "recipients" else one}


def _kind(field: FieldInfo) -> dict[str, Any]:
    """What a value may be: a number with its bounds, or text with a unit; one of a few words; a list."""
    kind = _stripped(field.annotation)
    if kind in _NUMBERS:
        return {"type": [_NUMBERS[kind], "string"], **_bounds(field)}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1}
    patterns = [pattern for how in field.metadata if (pattern := getattr(how, "pattern", None))]
    return {"type": "string", **({"pattern": patterns[0]} if patterns else {})}


def _stripped(kind: Any) -> Any:
    """The kind of a value, without None for one that may be left out, and without what reads it."""
    if get_origin(kind) in (UnionType, Union):
        (kind, *_) = (each for each in get_args(kind) if each is not NoneType)
    return _stripped(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _bounds(field: FieldInfo) -> dict[str, Any]:
    return {
        word: getattr(how, bound)
        for how in field.metadata
        for bound, word in _BOUNDS.items()
        if getattr(how, bound, None) is not None
    }
