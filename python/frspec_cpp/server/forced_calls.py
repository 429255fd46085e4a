"""Calls that an answer must be: `tool_choice` "required", or the name of a function. A grammar sees to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from frspec_cpp.grammar import Grammar
from frspec_cpp.server.errors import ApiError


def forced_names(choice: Any, names: Collection[str]) -> set[str]:
    """The functions of which one must be called; none: there need not be a call.

    Args:
        choice: The field `tool_choice`.
        names: Of the tools that were given.

    Raises:
        ApiError: It has none of OpenAI's forms, or names no tool.
    """
    if choice is None or choice in ("auto", "none"):
        return set()
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if choice != "required" and not isinstance(name, str):
        message = f"tool_choice: found {choice!r}, expected 'auto', 'none', 'required' or a function's name in its form"
        raise ApiError(400, message[:2000], "tool_choice", "invalid_value")
    if not names:
        raise ApiError(400, "tool_choice: found no tools, expected both", "tool_choice", "invalid_value")
    if choice == "required":
        return set(names)
    if not isinstance(name, str) or name not in names:
        known = ", ".join(map(repr, sorted(names)))
        raise ApiError(
            400, f"tool_choice: found {name!r}, expected one of the tools: {known}", "tool_choice", "invalid_value"
        )
    return {name}


def call_grammar(tools: list[dict[str, Any]], names: Collection[str]) -> Grammar:
    """JSON that calls one of these functions, with arguments that its schema allows."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for number, tool in enumerate(tools):
        function = tool["function"]
        if function["name"] not in names:
            continue
        place = f"tool{number}"
        definitions[place] = _moved(function.get("parameters") or {"type": "object"}, f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": {"allOf": [{"type": "object"}, {"$ref": f"#/$defs/{place}"}]},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return Grammar.from_json_schema({"anyOf": calls, "$defs": definitions})


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at `place` now, where its own references find what they mean."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(part, place) for key, part in schema.items() if key != "$id"}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
