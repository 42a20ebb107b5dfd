"""Every message in the source that names a command or a flag of edgeship's names one that there is."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from edgeship.cli import COMMANDS, app

SOURCE = Path(__file__).parents[3] / "src" / "edgeship"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
COMMAND = re.compile(r"\bedgeship ([a-z][a-z-]*)((?: [^,;:()\n]*)?)")
OTHERS = re.compile(
    r"\b(?:pip|apt|model_signing|trtexec|ssh|scp|openssl|dpkg-query|nvidia-smi|nvpmodel|docker|uv|rsync|torchrun)\b"
)
"""Programs whose flags are their own."""
NOT_OURS = {
    "engines/trt/trtexec.py", "engines/file_kind.py", "doctor.py", "commit.py", "bundle/model_signing.py",
}  # fmt: skip
"""Files that write the command lines of other programs: only what follows ``edgeship`` is checked there."""


@functools.lru_cache
def flags() -> dict[str, set[str]]:
    """Command → its flags; the program's own under an empty name."""
    group = typer.main.get_command(app)
    commands = {"": group, **group.commands}
    parts = {name: (item, *getattr(item, "commands", {}).values()) for name, item in commands.items() if name}
    parts[""] = (group,)
    return {
        name: {"--help"}
        | {flag for part in items for option in part.params for flag in (*option.opts, *option.secondary_opts)}
        for name, items in parts.items()
    }


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Each string of a file with its line; what an f-string fills in is X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in node.values)
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values),
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def wrong(text: str, known: dict[str, set[str]], *, bare: bool) -> list[str]:
    """What a message names and the command line does not have. ``bare``: flags without a command count too."""
    found = []
    rest = text
    for match in COMMAND.finditer(text):
        command, arguments = match[1], match[2]
        if not arguments and not re.search(rf"(?:do|run|with|`|^)\s*`*edgeship {command}", text):
            continue
        if command not in known:
            if arguments and FLAG.search(arguments):
                found.append(f"no command {command!r}")
            continue
        rest = rest.replace(match[0], "")
        found += [f"{command} has no {flag}" for flag in FLAG.findall(arguments) if flag not in known[command]]
    if bare and not OTHERS.search(rest):
        every = set().union(*known.values())
        found += [f"no command has {flag}" for flag in FLAG.findall(rest) if flag not in every]
    return found


@pytest.mark.parametrize("folder", sorted({path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.py")}))
def test_a_message_names_commands_and_flags_that_exist(folder: str) -> None:
    known = flags()
    place = SOURCE / folder
    found = []
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for line, text in messages(path):
            found += [f"{name}:{line}: {said}" for said in wrong(text, known, bare=name not in NOT_OURS)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run edgeship quantize --style onnxruntime", ["quantize has no --style"]),
        ("do: edgeship quantise X --for tensorrt", ["no command 'quantise'"]),
        ("give --styles or --images", ["no command has --styles"]),
        ("edgeship quantize X --for tensorrt", []),
        ("pip install --upgrade X", []),
    ],
)
def test_a_planted_message_is_found(text: str, said: list[str]) -> None:
    assert wrong(text, flags(), bare=True) == said


def test_every_command_is_in_the_order() -> None:
    assert set(flags()) - {"trial", ""} == set(COMMANDS)
