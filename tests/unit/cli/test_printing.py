"""What the command line prints: names as text, on any terminal, and no exit code that depends on the reader."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeship.cli.output import write_json_rows
from processes import edgeship

CLI = Path(__file__).parents[3] / "src" / "edgeship" / "cli"
HOSTILE = ["stop [/sign]", "[bold]red", "\x1b[31mblue", "{ForeignNode[/model.22/Range]}", "a\nSHIP", ":smile:"]
PRINT = (
    "import sys; from rich.table import Table; from edgeship.cli.streams import *; from edgeship.cli.output import *\n"
    "prepare_streams()\n"
    "names = sys.argv[1:]\n"
    "def lines():\n"
    "    yield from names\n"
    "    table = Table('name', title=names[0])\n"
    "    for name in names: table.add_row(name)\n"
    "    yield table\n"
    "emit({}, as_json=False, lines=lines)\n"
    "close_streams()\n"
)
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CLI.parents[1])}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=False, env=ENVIRONMENT | environment)


def test_rows_of_json_are_written_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    text = ""
    grew = []

    def rows(count: int) -> Iterator[str]:
        nonlocal text
        for number in range(count):
            new = capsys.readouterr().out
            grew.append(bool(new))
            text += new
            yield json.dumps({"number": number})

    for count in (3, 0):
        text = ""
        write_json_rows("rows", rows(count), {"more": {"a": 1}, "p": None})
        text += capsys.readouterr().out
        told = {"rows": [{"number": number} for number in range(count)], "more": {"a": 1}, "p": None}
        assert json.loads(text) == told
    assert grew == [True, True, True]


def in_terminal(*arguments: str, **environment: str) -> bytes:
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=theirs,
        stderr=theirs,
        env={"TERM": "xterm", "COLUMNS": "80", **ENVIRONMENT, **environment},
    ) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            told += part
    os.close(ours)
    assert process.returncode == 0, told
    return told


def test_names_are_printed_as_text() -> None:
    done = run("-c", PRINT, *HOSTILE)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "\x1b" not in text
    for word in ("stop [/sign]", "[bold]red", "[31mblue", "{ForeignNode[/model.22/Range]}", "a SHIP", ":smile:"):
        assert word in text.split("name")[0], word  # as a line
    assert text.count("[bold]red") == 2  # and in the table


def test_a_name_cannot_steer_a_terminal() -> None:
    told = in_terminal("-c", PRINT, *HOSTILE)
    assert b"\x1b[31mblue" not in told
    assert b"[31mblue" in told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_our_signs(encoding: str) -> None:
    done = run("-c", PRINT, "drop ≤ 0.1 → ✓ …", "名", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"drop <= 0.1 -> + " in done.stdout
    assert b"?" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["doctor", "--json"], ["ship", "--help"]])
def test_a_full_disk_behind_the_output_changes_no_exit_code(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        streams = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        done = edgeship(*arguments, **streams, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "not all of the output could be written: No space left on device\n"


def test_a_full_disk_behind_the_errors_changes_no_exit_code() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = edgeship("ship", "absent.toml", capture_output=False, stdout=full, stderr=full, env=ENVIRONMENT)
    assert done.returncode == 2


def test_a_closed_pipe_and_closed_streams_change_no_exit_code() -> None:
    line = f"'{sys.executable}' -m edgeship --help"
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | true"], capture_output=True, env=ENVIRONMENT, check=False
    )
    assert (piped.returncode, piped.stderr) == (0, b"")
    closed = subprocess.run(["bash", "-c", f"{line} >&-; exit $?"], capture_output=True, env=ENVIRONMENT, check=False)
    assert closed.returncode == 0, closed.stderr


def test_no_color() -> None:
    script = "from rich.text import Text; from edgeship.cli.output import show; show(Text('SHIP', style='bold green'))"
    assert b"32m" in in_terminal("-c", script)
    assert b"32m" not in in_terminal("-c", script, NO_COLOR="1")


def test_a_terminal_breaks_text_between_words_and_leaves_long_ones_whole() -> None:
    path = "/somewhere/" + "deep/" * 20 + "frame.png"
    script = f"from edgeship.cli.output import show; show('passes every rule ' * 6 + 'at last', 'shown at  {path}')"
    rows = in_terminal("-c", script).decode().replace("\r", "").splitlines()
    assert [len(row) <= 80 for row in rows] == [True, True, True, False]
    assert (rows[1].endswith("at last"), rows[2], rows[3]) == (True, "shown at", path)
    assert run("-c", script).stdout.count(b"\n") == 2, "a log has each on one line"


def test_only_one_module_prints() -> None:
    """``output.py`` prints text; JSON goes to the stream of results, and streams tell their own failure."""
    found = []
    for path in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called == "print" or called.endswith((".print", "stdout.write", "stderr.write")):
                found.append(f"{path.name}: {called}")
    assert sorted(set(found)) == [
        "output.py: screen.print",
        "output.py: sys.stdout.write",
        "streams.py: sys.stderr.write",
    ]


def test_a_long_path_is_left_whole_for_the_clipboard() -> None:
    path = "/tmp/" + "/".join(f"a-folder-with-a-name-{number}" for number in range(6)) + "/report.html"
    assert path.encode() in in_terminal("-c", PRINT, f"report  {path}")
