"""Names of nodes, tensors and classes that steer a terminal, close markup or begin a line, through every command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import tiny_project
from edgeship.cli import COMMANDS, app
from processes import edgeship

pytestmark = pytest.mark.slow

CLASSES = ("stop [/sign]", "[bold]red\x1b[31m", ":smile: {x}\x1b]0;title\x07")
NODES = (
    "{ForeignNode[/model.22/Range]}",
    "[bold]relu[/bold]",
    "stop [/sign]\x1b[31m",
    "\x1b]0;title\x07",
    "a\nSHIP fp32",
)
INPUT, OUTPUT = "img [/in]\x1b[2J", "out [red]\x07"
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]")
ASKED = "-p fit=stretch -p std=255 --images calib"
LINES = f"""
check edgeship.toml
inspect model.onnx
slim model.onnx -o slim.onnx
preflight model.onnx
calibrate model.onnx {ASKED} -o c.cache
quantize model.onnx --cache c.cache --for onnxruntime {ASKED} -o q.onnx
quantize model.onnx --for tensorrt --precision fp16 {ASKED} -o h.onnx
build q.onnx -e onnxruntime --precision int8 -o engine.onnx
bench engine.onnx --warmup 0.05 --seconds 0.05 --max-seconds 0.3 --batches 1
evaluate model.onnx --config edgeship.toml
parity model.onnx --onnx slim.onnx {ASKED}
ship edgeship.toml
gate edgeship-out
compare edgeship-out edgeship-out
report edgeship-out
layers edgeship-out
layers edgeship-out edgeship-out:int8
history show --file h.sqlite
inspect edgeship-out/bundle
bundle edgeship-out --zip b.zip
verify edgeship-out/bundle
run edgeship-out/bundle calib/0.png
hand-over edgeship-out/bundle --for cpp -o cpp
rebuild edgeship-out/bundle --images val --labels labels.csv -o rebuilt
export model.onnx -o again.onnx
init model.onnx -o made.toml
"""
REFUSED = """
hand-over edgeship-out/bundle --for triton -o triton
check edgeship.toml --set gate.critical.[/no]=0.1
evaluate model.onnx --config edgeship.toml --task detection
"""
OTHERS = {"doctor", "selftest", "qat", "fleet", "worker", "trial"}
"""They read no names of a model before another command has, or need a device that is not here."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every name is hostile."""
    folder = tmp_path_factory.mktemp("names")
    config = tiny_project.project(folder, each=8)
    model = onnx.load(folder / "model.onnx")
    for node, name in zip(model.graph.node, NODES, strict=False):
        node.name = name
    model.graph.node[0].input[0] = model.graph.input[0].name = INPUT
    model.graph.node[-1].output[0] = model.graph.output[0].name = OUTPUT
    onnx.save(model, folder / "model.onnx")
    rows = [
        f'{old}/{path.name},"{new}"'
        for old, new in zip(tiny_project.NAMES, CLASSES, strict=True)
        for path in sorted((folder / "val" / old).iterdir())
    ]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    text = config.read_text().replace('["red", "green", "blue"]', f'{json.dumps(CLASSES)}\nlabels = "labels.csv"')
    config.write_text(text + f'[gate.critical]\n{json.dumps(CLASSES[1])} = 0.5\n[history]\nfile = "h.sqlite"\n')
    return folder


def test_names_are_text_in_every_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    lines, refused = LINES.strip().splitlines(), REFUSED.strip().splitlines()
    assert {line.split()[0] for line in lines} | OTHERS >= set(COMMANDS)
    told = {}
    for line in lines:
        done = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        told[line] = (done.exit_code, done.output)
    for line in refused:
        ended = edgeship(*line.split(), cwd=project)
        told[line] = (ended.returncode, ended.stdout + ended.stderr)
    wrong = {
        line: said for line, (code, said) in told.items() if STEERS.search(said) or "Traceback" in said or code == 4
    }
    assert wrong == {}
    assert {line: code for line, (code, _) in told.items() if code != (2 if line in refused else 0)} == {}
    for line in ("check edgeship.toml", "ship edgeship.toml", "run edgeship-out/bundle calib/0.png"):
        assert "[bold]red[31m" in told[line][1], line
    written = [path for kind in ("md", "html", "xml", "json") for path in (project / "edgeship-out").rglob(f"*.{kind}")]
    assert {"summary.md", "report.html", "junit.xml"} <= {path.name for path in written}
    assert [path for path in written if STEERS.search(path.read_text(encoding="utf-8"))] == []
