"""The threat model names a test for each of its lines, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
BELIEVED = "**believed**"
"""Stands where nothing can hold a line: the page says so under "What is not checked" too."""


def lines_of(page: str) -> list[tuple[str, list[str]]]:
    """What may be tried, and the tests that hold it, row by row of the table."""
    table = page[page.index("| who | may | what happens | held by |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    return [(f"{may} – {happens}", re.findall(r"`([^`]+)`", held)) for _, may, happens, held in rows]


def missing(named: str) -> bool:
    """Whether ``unit/test_x.py::test_y`` is no function of that file; folders below ``unit`` stand without it."""
    file, _, function = named.partition("::")
    path = TESTS / file if file.startswith("end_to_end/") else TESTS / "unit" / file
    return not path.is_file() or function not in {
        item.name
        for item in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")
    }


def test_each_line_names_tests_that_exist() -> None:
    rows = lines_of(PAGE)
    assert len(rows) > 20
    assert [what for what, tests in rows if not tests and BELIEVED not in what] == []
    assert [name for _, tests in rows for name in tests if missing(name)] == []


def test_a_test_that_is_renamed_or_a_line_without_one_is_found() -> None:
    assert missing("bundle/test_bundle.py::test_that_is_not_there")
    assert missing("bundle/test_nothing.py::test_a_damaged_bundle_is_refused")
    assert missing("bundle/test_bundle.py")
    assert lines_of("| who | may | what happens | held by |\n| - | - | - | - |\n| x | y | z | – |\n\n") == [
        ("y – z", [])
    ]
