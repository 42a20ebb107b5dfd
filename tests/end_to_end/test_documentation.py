"""Every command of the README runs, every command of the CLI is in the docs, every generated page is current."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer
from projects import FASHION, ROOT, Edgeship

from edgeship import config_file
from edgeship.cli import COMMANDS, USAGE_ERROR, app
from edgeship.fleet.config import Fleet
from processes import edgeship, python

sys.path.insert(0, str(ROOT / "tests" / "unit" / "engines"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.alone
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(FASHION, tmp_path / "fashion", ignore=shutil.ignore_patterns("edgeship-out"))
    config = tmp_path / "fashion" / "edgeship.toml"
    config.write_text(re.sub(r"latency_p99_ms = [\d.]+", "latency_p99_ms = 5000.0", config.read_text()))
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    script = "set -e\n" + "\n".join(blocks(README, "sh"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-x", "-c", script],
        cwd=tmp_path / "fashion",
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    left = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    assert left.stdout == ""


PAGES = [
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ROOT / "docs" / "tutorial.md",
    ROOT / "docs" / "troubleshooting.md",
]


def commands_of(text: str) -> list[list[str]]:
    """The arguments of every ``edgeship …`` in a page's blocks of code and between its backticks."""
    lines = [
        line
        for block in re.findall(r"```(?:sh|console|text)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    lines += re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in lines:
        match = re.search(r"(?:^|[\s/'])edgeship ([a-z]+\b[^'|;&]*(?:'[^' ]*'[^'|;&]*)*)", line)
        if match and match[1].split()[0] in COMMANDS and not match[1].rstrip().endswith("…"):
            found.append(shlex.split(match[1].partition(" # ")[0]))
    return found


def check(arguments: list[str]) -> str:
    """What the real command line says against these arguments; nothing is run."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgeship", list(arguments)) as context:
            name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            inner.make_context(name, rest, parent=context)
    except USAGE_ERROR as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_command_of_the_pages_is_one_that_the_command_line_takes(page: Path) -> None:
    wrong = []
    for arguments in commands_of(page.read_text(encoding="utf-8")):
        full = len(arguments) > 1 or arguments[0] in ("doctor", "init")  # a bare name between backticks is no command
        if full and (said := check(arguments)):
            wrong.append(f"edgeship {' '.join(arguments)}: {said}")
    assert wrong == []


NOT_RUN = {
    "--engine tensorrt ": "TensorRT itself cannot be installed here",
    "--via trtexec": "no wheel brings trtexec",
    "--keep node_Conv_109": "the names are those of a reader's own network",
    "--device cuda:0": "needs a GPU",
    "--engine onnxruntime-rtx": "needs a GPU, and its package of 146 MB",
}
"""What is parsed and not run, and why; a dry run is run."""


@pytest.mark.slow
@pytest.mark.parametrize("page", ["benchmark", "calibrate-and-quantize", "rtx", "trtexec"])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, edgeship: Edgeship) -> None:
    """In their order, on a small network and real pictures under the names that the page uses."""
    from small_onnx import convolutions

    convolutions(tmp_path / "model.onnx", classes=32)  # enough of them for FP8, which takes no small product
    shutil.copytree(ROOT / "examples" / "segmentation" / "calib", tmp_path / "calib")
    ran = 0
    for arguments in commands_of((ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")):
        text = " ".join(arguments)
        if len(arguments) == 1 and arguments != ["doctor"]:
            continue
        if "--dry-run" not in text and any(part in f"{text} " for part in NOT_RUN):
            continue
        if "old.cache" in text:
            shutil.copyfile(tmp_path / "calib.cache", tmp_path / "old.cache")
        done = edgeship(*arguments)
        assert done.code == 0, f"edgeship {text}: {done.err}"
        ran += 1
    assert ran


def test_a_wrong_option_on_a_page_is_found() -> None:
    (planted,) = commands_of("    edgeship bench model.engine --engine tensorrt\n")
    assert "No such option: --engine" in check(planted)
    assert commands_of("```console\n$ ssh device 'edgeship/bin/edgeship verify a.zip --key pub.pem'\n```") == [
        ["verify", "a.zip", "--key", "pub.pem"]
    ]
    assert len([1 for page in PAGES for _ in commands_of(page.read_text(encoding="utf-8"))]) > 30


def test_the_readmes_config_is_valid(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(blocks(README, "toml")[0])
    assert config_file.load(tmp_path / "edgeship.toml").target.host == "nvidia@orin"


REST = """
[model]
source = "model:build"
weights = "model.safetensors"
inputs.images.shape = ["batch", 3, 64, 64]
[preprocess]
fit = "stretch"
[calibration]
images = "calib/"
[evaluation]
task = "detection"
images = "val/"
labels = "val.json"
decoder = "nms"
[target]
engine = "tensorrt"
device = "cuda:0"
[gate]
latency_p99_ms = 33.0
"""
"""What stands around a page's lines of a config."""


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two tables as one, table by table; ``above`` counts where both have a value."""
    both = {
        key: over(value, above[key])
        for key, value in below.items()
        if isinstance(value, dict) and isinstance(above.get(key), dict)
    }
    return below | above | both


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_config_of_the_pages_is_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "toml"):
        written = tomllib.loads(block)
        if "devices" in written:
            assert Fleet.model_validate(written).devices
        else:
            whole = "gate" in written and "source" in written.get("model", {})
            config_file.check(written if whole else over(tomllib.loads(REST), written), tmp_path / "edgeship.toml")


def test_every_command_is_in_the_readme_and_in_the_order(edgeship_help: str) -> None:
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", edgeship_help, re.MULTILINE), command
    shown = set(re.findall(r"edgeship ([a-z-]+)", README))
    assert set(COMMANDS) - shown <= {"rebuild"}


@pytest.fixture
def edgeship_help() -> str:
    """What ``edgeship --help`` prints."""
    assert app is not None
    return edgeship("--help", check=True).stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgeship', '--help']\n"
        "from edgeship.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'tensorrt_rtx'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = python("-c", code, check=True)
    assert "heavy: []" in done.stdout


def test_generated_pages_are_current() -> None:
    done = python(ROOT / "docs" / "generate.py", "--check")
    assert done.returncode == 0, done.stderr


def messages() -> list[str]:
    """Every text of the source that is filled in, with an ellipsis for what is filled in; and every plain one."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_how_to_says_what_to_do_when_it_fails_in_words_that_are_printed() -> None:
    known = messages()
    words = [text.split("…") for text in known if len(text) < 400]
    long = [parts for parts in words if sum(len(part.strip()) for part in parts) >= 12]
    filled = [re.compile(".*".join(map(re.escape, parts))) for parts in long]
    missing, unknown = [], []
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md")):
        _, there, section = page.read_text(encoding="utf-8").partition("## When it fails\n")
        if not there:
            missing.append(page.name)
        for message in re.findall(r"^\| `([^`]+)` \|", section.partition("\n## ")[0], re.MULTILINE):
            parts = [part.strip() for part in message.split("…") if part.strip()]
            quoted = any(all(part in text for part in parts) for text in known)
            if not quoted and not any(pattern.search(message) for pattern in filled):
                unknown.append(f"{page.name}: {message}")
    assert missing == [] and unknown == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} → {target}")
    assert broken == []


def test_the_site_shows_every_page() -> None:
    """``make site`` is strict about it; this needs no mkdocs."""
    shown = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert shown == pages


def test_the_notebook_was_run_without_an_error() -> None:
    notebook = json.loads((ROOT / "docs" / "tutorials" / "notebook.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    for cell in code:
        assert [item["output_type"] for item in cell["outputs"]] == ["execute_result"], cell["source"]
