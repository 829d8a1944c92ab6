"""Checks a JSON value against the schema that nettrace ships, with no more of JSON Schema than it uses.

The VMs have no library for that. What is not known here fails, so that nothing goes unchecked.
"""

import json
import re
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "nettrace.schema.json").read_text(encoding="utf-8"))

_TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
_WORDS = {
    "type", "description", "additionalProperties", "required", "properties", "pattern", "items", "minItems", "maxItems",
    "enum", "const", "anyOf", "oneOf", "$ref", "$schema", "title", "$defs",
}  # fmt: skip


def check_line(line: str) -> dict[str, Any]:
    """A line of --json; AssertionError says what the schema does not allow."""
    value: dict[str, Any] = json.loads(line)
    (schema,) = [each for each in SCHEMA["oneOf"] if each["properties"]["type"]["const"] == value.get("type")]
    check(value, schema, value["type"])
    return value


def check(value: Any, schema: dict[str, Any], at: str) -> None:
    """AssertionError says where the value is not as the schema has it."""
    assert schema.keys() <= _WORDS, schema.keys() - _WORDS
    if "$ref" in schema:
        check(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], at)
    if "anyOf" in schema:
        assert any(_fits(value, each, at) for each in schema["anyOf"]), f"{at}: {value!r}"
    if "const" in schema:
        assert value == schema["const"], f"{at}: {value!r}"
    if "enum" in schema:
        assert value in schema["enum"], f"{at}: {value!r}"
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(_is(value, kind) for kind in kinds), f"{at}: {value!r} is no {kinds}"
    if isinstance(value, str) and "pattern" in schema:
        assert re.search(schema["pattern"], value), f"{at}: {value!r}"
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        missing = set(schema.get("required", ())) - value.keys()
        assert not missing, f"{at} lacks {missing}"
        for name, each in value.items():
            if name in properties:
                check(each, properties[name], f"{at}.{name}")
            elif isinstance(others, dict):
                check(each, others, f"{at}.{name}")
            else:
                assert others, f"{at} has a {name} that the schema does not know"
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)), at
        for number, each in enumerate(value):
            check(each, schema.get("items", {}), f"{at}[{number}]")


def _fits(value: Any, schema: dict[str, Any], at: str) -> bool:
    try:
        check(value, schema, at)
    except AssertionError:
        return False
    return True


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))
