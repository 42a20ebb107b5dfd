"""Why one engine is faster than another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trtexec_exports as exports
from typer.testing import CliRunner

from edgeship.cli import app
from edgeship.decide.layers import diff, islands, layers_of_trial
from edgeship.engines.exported import read_layers
from edgeship.errors import ArtifactError
from edgeship.results import EngineLayer, EngineLayers
from made_trials import finished_run, measured


@pytest.fixture
def engines(tmp_path: Path) -> tuple[EngineLayers, EngineLayers]:
    return read_layers(exports.write("fp16", tmp_path)), read_layers(exports.write("int8", tmp_path))


def test_int8_is_slower_where_its_boundaries_eat_what_it_gains(engines: tuple[EngineLayers, EngineLayers]) -> None:
    found = diff(*engines)
    assert found.matched == "order"
    changes = {item.role: item.change for item in found.roles}
    assert changes["product"] == pytest.approx(-0.02)
    assert changes["quantize"] == pytest.approx(0.09)
    assert changes["reformat"] == pytest.approx(-0.04)
    text = " ".join(found.sentences)
    assert "net_int8 is slower than net_fp16: its layers take 0.480 ms against 0.420 ms" in text
    assert "convolutions and matrix products 0.020 ms less" in text
    assert "layers that quantize, dequantize or only change type or layout 0.050 ms more" in text
    assert "The boundaries eat more than all (250%) of what the products gain." in text
    assert "stem.weight + quantize_1 + stem_q (0.110 ms → 0.200 ms, fp16 → int8, leaves fp32)" in text
    assert "1 island of float between INT8 layers, with their boundaries 0.160 ms: pool_q" in text
    stem = next(pair for pair in found.pairs if pair.before and pair.before.name == "stem + act")
    assert stem.after is not None and stem.after.name.startswith("stem.weight")
    assert stem.change == pytest.approx(0.09)
    products = [pair for pair in found.pairs if pair.before is not None and pair.before.role == "product"]
    assert all(pair.after is not None and pair.before.detail == pair.after.detail for pair in products if pair.before)


def test_real_resnets_in_fp16_and_qat_say_why_where_their_reports_are() -> None:
    """On the A100 INT8 saves 0.15 ms in convolutions and spends 0.19 ms at its boundaries; with fewer it is faster."""
    names = [exports.REAL / f"pytorch__resnet__A100__{name}__graph.json" for name in ("fp16", "qat", "qat-residual")]
    assert all(path.is_file() for path in names) is exports.REAL.is_dir()
    if not exports.REAL.is_dir():
        return
    fp16, qat, residual = map(read_layers, names)
    found = diff(fp16, qat)
    text = " ".join(found.sentences)
    changes = {item.role: item.change for item in found.roles}
    assert changes["product"] == pytest.approx(-0.146432)
    assert changes["quantize"] == pytest.approx(0.232448)
    assert "pytorch__resnet__A100__qat is slower than pytorch__resnet__A100__fp16" in text
    assert "The boundaries eat more than all (130%) of what the products gain." in text
    assert "conv1.weight + QuantizeLinear_7 + Conv_9 (0.112 ms → 0.202 ms, fp16 → int8, leaves fp32)" in text
    assert "2 islands of float between INT8 layers, with their boundaries 0.187 ms: MaxPool_12" in text
    assert "qat-residual is faster than pytorch__resnet__A100__fp16" in diff(fp16, residual).sentences[0]
    assert diff(qat, residual).matched == "nodes"


def test_the_same_engine_does_not_differ(engines: tuple[EngineLayers, EngineLayers]) -> None:
    found = diff(engines[0], engines[0])
    assert found.matched == "nodes"
    assert all(pair.change in (0.0, None) for pair in found.pairs if pair.before and pair.after)
    assert sum(item.change or 0.0 for item in found.roles) == 0.0
    assert "as fast as" in found.sentences[0]


def test_islands_are_float_between_int8_with_their_boundaries(engines: tuple[EngineLayers, EngineLayers]) -> None:
    assert islands(engines[0].layers) == ()
    (pool,) = islands(engines[1].layers)
    assert [layer.name for layer in pool.layers] == ["pool_q"]
    assert (pool.first, pool.last) == (2, 4)
    assert pool.ms == pytest.approx(0.09 + 0.04 + 0.03)


def layer(name: str, precision: str, role: str = "product", ms: float | None = 1.0) -> EngineLayer:
    return EngineLayer(name=name, kind="Conv", precision=precision, role=role, nodes=(name,), ms=ms)  # type: ignore[arg-type]


def test_float_at_the_ends_is_no_island_and_a_float_product_is_one() -> None:
    order = [layer("a", "fp32"), layer("b", "int8"), layer("c", "fp32"), layer("d", "int8"), layer("e", "fp16")]
    (found,) = islands(order)
    assert [item.name for item in found.layers] == ["c"]
    assert islands([layer("a", "fp32"), layer("b", "fp32")]) == ()


def test_engines_without_times_are_compared_by_type_alone() -> None:
    one = EngineLayers(title="one", source="s", layers=(layer("a", "fp32", ms=None),))
    two = EngineLayers(title="two", source="s", layers=(layer("a", "int8", ms=None), layer("b", "int8", ms=None)))
    found = diff(one, two)
    assert found.sentences == ("The layers of one of the two were not timed, so only types and order are compared.",)
    assert [pair.change for pair in found.pairs] == [None, None]


def test_a_trial_without_layers_says_why() -> None:
    with pytest.raises(ArtifactError, match="could not be opened"):
        layers_of_trial(measured().trial)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(item) for item in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_shows_one_engine_and_two(tmp_path: Path) -> None:
    fp16, int8 = exports.write("fp16", tmp_path), exports.write("int8", tmp_path)
    one = call("layers", int8)
    assert "net_int8: 8 layers, 0.480 ms together" in one
    row = next(line for line in one.splitlines() if "pool_q" in line and "TiledPooling" in line)
    assert row.split()[0] == "2" and row.rstrip().endswith("float island")
    assert "fp32 → int8" in one and "41.7%" in one
    assert "net_int8 is slower than net_fp16" in call("layers", fp16, int8)
    told = json.loads(call("layers", fp16, int8, "--json"))
    assert told["matched"] == "order" and len(told["pairs"]) > 8


def test_the_command_reads_a_candidate_of_a_run(tmp_path: Path) -> None:
    order = (layer("first", "fp32"), layer("second", "int8"))
    item = measured()
    audit = item.trial.audit.model_copy(update={"order": order})
    folder = finished_run(tmp_path / "run", measured(audit=audit), measured("fp32", precision="fp32"))
    assert "int8: 2 layers" in call("layers", folder)
    assert "second" in call("layers", f"{folder}:int8")
    assert "second" in call("layers", folder / "int8")
    wrong = CliRunner().invoke(app, ["layers", f"{folder}:int9"])
    assert wrong.exit_code != 0 and "no candidate 'int9'" in str(wrong.exception)
    none = CliRunner().invoke(app, ["layers", f"{folder}:fp32"])
    assert none.exit_code != 0 and "the layers of fp32" in str(none.exception)
