"""The schema: smtp2cf.schema.json, a JSON Schema (draft 7) for the TOML file, generated from the settings.

Editors use it to complete keys and to mark mistakes. It refuses no value as the example writes it; the bridge
itself checks more. `python -m smtp2cf.settings.example schema` prints it.
"""

import json
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from smtp2cf.settings.fields import Settings
from smtp2cf.settings.secret_files import KINDS

DRAFT = "http://json-schema.org/draft-07/schema#"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_NUMBERS = {bool: "boolean", int: "integer", float: "number"}


def schema(descriptions: dict[str, str]) -> str:
    """The text of smtp2cf.schema.json. descriptions: by setting."""
    properties: dict[str, Any] = {
        name: {"description": descriptions[name], **_kind(field)}
        for name, field in Settings.model_fields.items()
    }
    for name in KINDS:
        properties[f"{name}_file"] = {"description": f"A file that holds {name}.", "type": "string"}
    document = {
        "$schema": DRAFT,
        "title": "smtp2cf.toml",
        "description": "The settings of smtp2cf.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _kind(field: FieldInfo) -> dict[str, Any]:
    """What a value may be: a number with its bounds, or text with a unit; one of a few words; a list."""
    kind: Any = field.annotation
    if kind in _NUMBERS:
        return {"type": [_NUMBERS[kind], "string"], **_bounds(field)}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1}
    patterns = [pattern for how in field.metadata if (pattern := getattr(how, "pattern", None))]
    return {"type": "string", **({"pattern": patterns[0]} if patterns else {})}


def _bounds(field: FieldInfo) -> dict[str, Any]:
    return {
        word: getattr(how, bound)
        for how in field.metadata
        for bound, word in _BOUNDS.items()
        if getattr(how, bound, None) is not None
    }
