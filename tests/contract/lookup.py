"""Run in a process of its own: look names and calls up in one generation of the bindings. JSON in, JSON out."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from typing import Any


def find(module: Any, path: str) -> Any:
    """The object behind a dotted path. AttributeError names the part that is not there."""
    found = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def signatures(function: Any) -> list[tuple[list[str], int]]:
    """(names of parameters, how many are required) of each overload in a pybind11 docstring, without self."""
    text = getattr(function, "__doc__", None) or ""
    if isinstance(function, type):
        text = getattr(function.__init__, "__doc__", None) or ""
    found = []
    for match in re.finditer(r"^\s*(?:\d+\. )?\w+\(((?:[^()]|\([^()]*\))*)\)(?: ->.*)?$", text, re.MULTILINE):
        if "*args" in match[1]:
            continue
        parts = [part for part in split(match[1]) if part and not part.startswith("self")]
        names = [part.split(":")[0].split("=")[0].strip() for part in parts]
        found.append((names, sum("=" not in part for part in parts)))
    return found


def split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += letter in "[(<{"
        depth -= letter in "])>}"
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return [*parts, current.strip()]


def problem(module: Any, use: dict[str, Any]) -> str:
    """What is wrong with one use; empty when it fits."""
    path = use["path"]
    try:
        target = find(module, path)
    except AttributeError as error:
        return f"{use['where']}: {path}: {error}"
    if use["count"] is None:
        return ""
    known = signatures(target)
    if not known:
        return f"{use['where']}: {path} is called and has no signature"
    for names, required in known:
        given = use["count"] + len(use["keywords"])
        if required <= given <= len(names) and set(use["keywords"]) <= set(names):
            return ""
    return f"{use['where']}: {path} is called with {use['count']} arguments and {use['keywords']}; it takes {known}"


def main() -> None:
    module = importlib.import_module(os.environ["CONTRACT_MODULE"])
    uses = json.load(sys.stdin)
    print(
        json.dumps(
            {"version": module.__version__, "problems": [text for use in uses if (text := problem(module, use))]}
        )
    )


if __name__ == "__main__":
    main()
