"""The page is parsed as a browser would: names from outside stay text, and nothing points outside the file."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import report_samples as samples
from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decide.report import render, verdict, write_report
from edgeship.decide.report.blocks import Table
from edgeship.decide.report.depth_pictures import ERROR, NOTHING, coloured
from edgeship.decide.report.export_and_calibration import calibration_section
from edgeship.decide.report.view import targets
from edgeship.errors import ArtifactError, StorageError
from edgeship.results import Changes, PlacementScore, RunResult
from made_trials import finished_run, measured, records

VOID = {"meta", "link", "br", "img", "circle", "line", "path", "rect", "image", "use", "input"}


class Parsed(HTMLParser):
    """Elements, their attributes, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            self.raw[inside] = data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return samples.rich(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="module")
def page(run: FinishedRun) -> Parsed:
    return Parsed(render(run))


def changed(run: FinishedRun, **facts: object) -> FinishedRun:
    """The same run with other facts in result.json."""
    return FinishedRun(RunResult(**(dict(run.result) | facts)), run.folder)


def test_every_part_is_shown(page: Parsed) -> None:
    sections = {attributes["id"] for attributes in page.all("section") if "id" in attributes}
    shared = {
        "target-2-next",
        "target-1-answers",
        "targets",
        "calibration",
        "export",
        "stages",
        "environment",
        "reproduce",
    }
    names = ("rules", "candidates", "latency", "accuracy", "images", "audit", "inside", "search", "baselines")
    per_target = {f"target-{n}-{name}" for n in (1, 2) for name in names}
    assert sections == shared | per_target | {"target-1-sensitivity"}
    for words in (
        "SHIP",
        "NO-SHIP",
        "8 of 113 nodes",
        "the clock fell",
        "PyTorch compile",
        "not timed here: this target is on another host",
        "edgeship ship mine.toml",
        "The config, mine.toml",
        "First to diverge: Resize",
        "--keep /head/Conv",
    ):
        assert words in page.text
    assert "FP16 needs one node in FP32." in page.text
    assert "--precision fp16 --keep" in page.text


def test_a_model_file_is_told_without_its_folder(page: Parsed) -> None:
    """The report goes into the bundle, and so to whoever gets that."""
    assert "detector.onnx" in page.text
    assert "/home/" not in page.text


def test_several_targets_stand_side_by_side_in_one_table(run: FinishedRun) -> None:
    section = verdict.targets_section(targets(run))
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert [row.cells[0].text for row in table.rows] == ["workstation", "orin <nano>"]
    assert [row.cells[1].text for row in table.rows] == ["SHIP", "NO-SHIP"]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)
    assert table.rows[0].cells[2].text == "int8" and table.rows[0].emphasis
    one = changed(run, decisions=run.result.decisions[:1])
    assert "Targets side by side" not in render(one) and "Targets side by side" in render(run)


def test_the_layers_stand_in_order_with_their_island_and_the_difference_says_why(page: Parsed) -> None:
    assert "Inside the engine: int8" in page.text
    assert "1 island of float between INT8 layers: /act/Sigmoid (0.660 ms with its boundaries)" in page.text
    assert "int8 is slower than fp32: its layers take 2.100 ms against 1.050 ms" in page.text
    assert "from /stem/Conv, /stem/Relu" in page.text
    listing = page.text[page.text.index("Layers of int8 in order") :]
    order = [listing.index(word) for word in ("q_in", "/stem/Conv <script>", "dq ", "/act/Sigmoid", "reorder")]
    assert order == sorted(order)


def test_hostile_names_stay_text(page: Parsed) -> None:
    assert samples.HOSTILE in page.text
    assert len(page.all("script")) == 1
    allowed = {"html", "head", "meta", "title", "link", "style", "body", "script", "svg", "image", "use", "a"}
    assert allowed <= {tag for tag, _ in page.elements}
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert handlers == []


def test_nothing_points_outside_the_page(page: Parsed) -> None:
    pointing = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data", "poster", "xlink:href")
    ]
    assert pointing
    assert all(str(value).startswith(("#", "data:")) for _, _, value in pointing), pointing
    assert "url(" not in page.raw["style"] and "@import" not in page.raw["style"]


def test_the_policy_names_exactly_the_style_and_the_script(page: Parsed) -> None:
    policy = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [tag for tag, attributes in page.elements if "style" in attributes]


def test_it_can_be_read_without_eyes(page: Parsed) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    drawings = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    named = [svg for svg in drawings if svg.get("role") == "img"]
    assert named and all(svg["aria-label"] for svg in named)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_identities_are_unique_and_the_contents_lead_somewhere(page: Parsed) -> None:
    identities = Counter(str(attributes["id"]) for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in identities.items() if count > 1] == []
    links = [str(attributes["href"])[1:] for attributes in (*page.all("a"), *page.all("use"))]
    assert links and set(links) <= set(identities)


def test_equal_runs_give_an_equal_page(run: FinishedRun, tmp_path: Path) -> None:
    again = samples.rich(tmp_path)
    assert render(again) == render(run)


def test_no_undefined_number_reaches_a_drawing(tmp_path: Path) -> None:
    page = Parsed(render(samples.single(tmp_path)))
    coordinates = ("x", "y", "x1", "x2", "y1", "y2", "d", "width", "height", "cx", "cy")
    values = [str(a[name]).lower() for tag, a in page.elements for name in coordinates if name in a]
    assert values and not [value for value in values if "nan" in value or "inf" in value]


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = Parsed(render(samples.bare(tmp_path))).text
    assert "INCONCLUSIVE" in text and "Nothing was tried." in text
    assert "No candidate was tried." in text
    assert "Stage times were not measured." in text
    assert "The environment was not recorded." in text


def test_statistics_off_is_said(tmp_path: Path) -> None:
    text = Parsed(render(samples.single(tmp_path))).text
    assert "Statistics are off (confidence = 0)" in text


def test_a_crashed_candidate_shows_its_stage(page: Parsed) -> None:
    assert "build: BuildError" in page.text
    assert f"build: the builder stopped at {samples.HOSTILE}" in page.text


def test_a_lost_box_is_named_and_a_missing_image_does_not_stop_the_page(page: Parsed) -> None:
    assert "worse: 2 boxes; lost person; new dog" in page.text
    assert "gone.png: the image could not be read again" in page.text
    embedded = [str(image["href"]) for image in page.all("image")]
    assert [source.partition(";")[0] for source in embedded].count("data:image/jpeg") == 4
    assert [source.partition(";")[0] for source in embedded].count("data:image/png") == 9


def test_latency_samples_are_drawn_when_kept_and_missed_when_gone(page: Parsed, tmp_path: Path) -> None:
    humps = [a for tag, a in page.elements if a.get("class") == "hump"]
    assert len(humps) == 48
    one = samples.single(tmp_path)
    trial = one.trials[0].trial
    assert trial.latency is not None
    (samples_file,) = tmp_path.glob("stages/*/latency.npz")
    samples_file.unlink()
    with pytest.raises(ArtifactError, match=r"latency\.npz is missing"):
        render(one)
    kept_none = trial.latency.model_copy(update={"samples": None})
    samples.summarized(tmp_path, trial.model_copy(update={"latency": kept_none}))
    again = Parsed(render(FinishedRun(one.result, one.folder)))
    assert "hump" not in {a.get("class") for _, a in again.elements}


def test_the_focus_is_the_chosen_one_or_the_nearest(run: FinishedRun) -> None:
    first, second = targets(run)
    assert first.focus is not None and first.focus.name == "int8"
    assert second.focus is not None and second.focus.outcome == "pass"


def test_drops_of_the_first_quantized_candidate_stand_open_when_fp32_is_chosen(run: FinishedRun) -> None:
    chosen = run.result.decisions[0].model_copy(update={"chosen": "fp32"})
    page = Parsed(render(changed(run, decisions=(chosen,))))
    assert sum("open" in fold for fold in page.all("details")) == 1
    assert "Accuracy of fp32" in page.text
    assert not any("open" in fold for fold in Parsed(render(run)).all("details"))


def test_a_picture_that_was_changed_is_refused(tmp_path: Path) -> None:
    run = samples.rich(tmp_path, candidates=2)
    (tmp_path / "stages" / "changes-workstation" / "small.png").write_bytes(b"\x89PNG other")
    with pytest.raises(ArtifactError, match=r"small\.png has changed"):
        render(run)


def test_images_of_several_tasks_stand_under_their_names_and_neighbours_beside_their_image(tmp_path: Path) -> None:
    run = samples.rich(tmp_path, candidates=2)
    found = run.changes("workstation")
    assert found is not None
    boxes, mask, small, *_ = found.images
    near = small.reference.model_copy(update={"picture": small.picture, "text": "bag, other.png"})
    told = {"objects": boxes, "lanes": mask, "looks": small.model_copy(update={"reference": near, "answer": near})}
    images = tuple(image.model_copy(update={"task": task}) for task, image in told.items())
    samples.stage(tmp_path, "changes:workstation", Changes(images=images))
    page = Parsed(render(FinishedRun(run.result, run.folder)))
    places = [page.words.index(name) for name in ("objects", "lanes", "looks")]
    assert places == sorted(places)
    ends = [*places[1:], len(page.words)]
    shown = [" ".join(page.words[start:end]) for start, end in zip(places, ends, strict=True)]
    assert "1 became worse, 0 better, 0 other" in shown[0]
    assert "0 became worse, 0 better, 1 other" in shown[1]
    assert "int8, nearest" in shown[2]
    assert len(page.all("image")) == len({str(image["href"]) + str(image.get("id")) for image in page.all("image")})


def test_a_run_that_names_a_place_outside_its_folder_is_refused(tmp_path: Path) -> None:
    run = samples.bare(tmp_path)
    outside = run.result.reference.model_copy(update={"folder": "../elsewhere"})
    with pytest.raises(ArtifactError, match="a path inside the run's folder"):
        render(changed(run, reference=outside))


def test_depth_is_shown_with_what_was_measured_and_the_error(page: Parsed) -> None:
    headings = ("Image", "Measured", "Reference", "Reference, error", "int8", "int8, error")
    shown = [str(item.get("aria-label")) for item in page.all("svg") if "on depth.png: " in str(item.get("aria-label"))]
    assert [label.partition(" on ")[0] for label in shown] == list(headings[1:])
    assert "2 to 40 m, dark is near" in shown[0]
    assert "worse" not in shown[1]


def test_values_become_colours_between_the_ends_of_a_scale() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(stream, "PNG")
    found = np.asarray(Image.open(io.BytesIO(coloured(stream.getvalue(), ERROR))).convert("RGB"))
    assert found.tolist() == [[list(NOTHING), list(ERROR[0]), list(ERROR[2]), list(ERROR[-1])]]


def test_pairs_can_be_chosen_by_change_class_and_size(page: Parsed) -> None:
    choices = [attributes["data-filter"] for attributes in page.all("select")]
    assert choices[:2] == ["change", "class"]
    pairs = [attributes for attributes in page.all("figure") if attributes.get("class") == "pair"]
    assert json.loads(str(pairs[0]["data-change"])) == ["worse"]
    assert json.loads(str(pairs[0]["data-class"])) == ["person", samples.HOSTILE]
    assert json.loads(str(pairs[0]["data-size"])) == ["large"]
    assert {option["value"] for option in page.all("option")} >= {"", "worse", "both wrong", "person", "dress"}


def test_answers_are_set_beside_the_references(page: Parsed) -> None:
    assert "How int8 answers beside the reference" in page.text
    assert "Missed in both: the reference's own mistakes" in page.text
    assert "Precision over recall" in page.text and "Expected calibration error: reference" in page.text


def test_small_confusions_are_a_matrix_and_many_classes_a_list(tmp_path: Path) -> None:
    run = open_run(finished_run(tmp_path / "few", measured(arrays=records(3))))
    page = Parsed(render(run))
    shades = [attributes["class"] for attributes in page.all("td") if "heat-" in str(attributes.get("class"))]
    assert len(shades) == 6 and sum("heat-right" in str(shade) for shade in shades) == 3
    assert "Of the images that int8 gets wrong, the reference gets wrong 0 % too" in page.text
    classes = tuple(f"class {number}" for number in range(20))
    base, many = (records(wrong, each=10, classes=classes) for wrong in (0, 2))
    folder = finished_run(tmp_path / "many", measured(arrays=many), reference=measured("reference", arrays=base))
    assert "The most frequent confusions of 20 classes" in Parsed(render(open_run(folder))).text


def test_the_title_holds_version_commit_and_digests(page: Parsed) -> None:
    assert f"Version 2.1 {samples.HOSTILE}" in page.text
    assert "Commit ffffffffffff, with changes" in page.text and "Model abababababab" in page.text


def test_control_characters_of_names_do_not_reach_the_page(tmp_path: Path) -> None:
    page = render(samples.bare(tmp_path, "escape \x1b[31m and \u202e turned"))
    assert "\x1b" not in page and "\u202e" not in page
    assert "escape [31m and  turned" in page


def test_the_page_is_written_whole_or_refused(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "report.html"
    write_report(samples.bare(tmp_path / "run"), place)
    assert place.read_text(encoding="utf-8").rstrip().endswith("</html>")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageError, NotADirectoryError, FileExistsError)):
        write_report(samples.bare(tmp_path / "run"), tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("held_out", "words"),
    [(None, "on held-out frames;"), (0, "on the calibration frames themselves (none"), (64, "frames (64 held out)")],
)
def test_the_calibration_section_says_what_was_not_held_out_or_checked(
    tmp_path: Path, held_out: int | None, words: str
) -> None:
    run = samples.rich(tmp_path, candidates=2)
    assert run.calibrated is not None
    changes = {"held_out": held_out, "unchecked": ("Not checked.",), "moved_p95": None}
    samples.stage(tmp_path, "calibrate", run.calibrated.model_copy(update=changes))
    text = Parsed(render(FinishedRun(run.result, run.folder))).text
    assert words in text
    assert "Not checked." in text
    assert "moved at most not known" in text


def test_placements_stand_in_a_table_with_the_chosen_one(tmp_path: Path) -> None:
    run = samples.rich(tmp_path, candidates=2)
    assert run.calibrated is not None
    scores = tuple(
        PlacementScore(placement=name, snr_db=snr_db, products=9, agreement=0.97, ms=milliseconds)
        for name, snr_db, milliseconds in (("default", 22.5, 1.25), ("products", 32.5, 1.2))
    )
    changes = {"placement": "products", "placements": scores}
    samples.stage(tmp_path, "calibrate", run.calibrated.model_copy(update=changes))
    section = calibration_section(FinishedRun(run.result, run.folder))
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table) and "Q/DQ" in block.caption)
    told = [[cell.text for cell in row.cells] for row in table.rows]
    assert [line[0] for line in told] == ["default", "products"]
    assert ["22.5" in line[1] and "1.25" in line[4] for line in told] == [True, False]
    assert [line[-1] for line in told] == ["", "chosen"]
