"""What the fields of a schema allow, in the user's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from mads4.config import Command
from mads4.errors import did_you_mean

Node: TypeAlias = Mapping[str, Any]


def fields(schema: type[Command]) -> dict[str, Node]:
    """Return the JSON schema of each ``key``, ``group.key`` … of a command's exact schema."""
    root = schema.model_json_schema()
    nodes: dict[str, Node] = {}

    def visit(key: str, node: Node) -> None:
        inner = [branch for branch in _branches(root, node) if "properties" in branch]
        for group in inner:
            for leaf, below in group["properties"].items():
                visit(f"{key}.{leaf}", below)
        if not inner:
            nodes[key] = node

    for name, node in root["properties"].items():
        visit(name, node)
    return nodes


def suggest(key: str, allowed: Iterable[str]) -> str:
    """Return a near match for an unknown key, or what its group does contain."""
    allowed = list(allowed)
    group, _, leaf = key.rpartition(".")
    siblings = [a.rpartition(".")[2] for a in allowed if a.rpartition(".")[0] == group]
    if not group:
        siblings += ["experiment", *sorted({a.partition(".")[0] for a in allowed if "." in a})]
    if near := did_you_mean(leaf, siblings):
        return near
    if elsewhere := next((a for a in allowed if a.rpartition(".")[2] == leaf), ""):
        return f" Did you mean '{elsewhere}'?"
    return f" Allowed here: {', '.join(siblings)}." if siblings else ""


def choices(node: Node) -> list[str]:
    """Return the words that a JSON schema node allows; of other values nothing."""
    listed = node.get("enum", [node["const"]] if "const" in node else [])
    inner = [word for one in node.get("anyOf", []) for word in choices(one)]
    return [word for word in listed if isinstance(word, str)] + inner


def _branches(root: Node, node: Node) -> list[Node]:
    """Return the alternatives that a JSON schema node stands for, references followed."""
    if "$ref" in node:
        return _branches(root, root["$defs"][node["$ref"].rsplit("/", 1)[1]])
    alternatives = node.get("oneOf") or node.get("anyOf") or []
    return [leaf for one in alternatives for leaf in _branches(root, one)] or [node]


def expected(node: Node) -> str:
    """Say in words what a JSON schema node allows."""
    if "expected" in node:
        return str(node["expected"])
    if "anyOf" in node:
        flat = [leaf for one in node["anyOf"] for leaf in one.get("anyOf", [one])]
        words = list(dict.fromkeys(expected(one) for one in flat))
        return " or ".join(sorted(words, key=lambda word: word == "null"))
    if "const" in node or "enum" in node:
        words = [str(word) for word in node.get("enum", [node.get("const")])]
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    if node.get("type") == "array":
        return f"a list of: {expected(node['items'])}"
    bounds = [f"{sign} {node[name]:g}" for name, sign in _BOUNDS.items() if name in node]
    return " ".join([_TYPES[node.get("type", "object")], " and ".join(bounds)]).strip()


_TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping {key: value}",
    "string": "text",
}
_BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
