"""The report in a real browser: it is quiet, stays home, fits the screen and can be read in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import report_samples as samples
from browser_support import Page, browser
from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decide.report import write_report
from made_trials import finished_run, measured, records

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"wide": (1400, 900), "desk": (1280, 900), "tablet": (800, 1100), "phone": (390, 844)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here: apt-get install chromium"),
]

CONTRAST = """
(() => {
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, .photo, .visually-hidden, .skip")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element.closest("svg") ? style.fill : style.color));
    const paper = light(behind(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    checked += 1;
    if (ratio < 4.5) poor.push([walker.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return { checked, poor };
})()
"""
CROSSING = """
(() => {
  const found = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const box = chart.getBoundingClientRect();
    if (!box.width) continue;
    const texts = [...chart.querySelectorAll("text")].map((node) => [node.textContent, node.getBoundingClientRect()]);
    texts.forEach(([name, a], index) => {
      if (a.left < box.left - 2 || a.right > box.right + 2) found.push([name, "outside"]);
      for (const [other, b] of texts.slice(index + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 3) found.push([name, other]);
      }
    });
  }
  return found;
})()
"""
ON_DASHES = """
(() => {
  const found = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    if (!chart.getBoundingClientRect().width) continue;
    for (const line of chart.querySelectorAll("line.limit, line.zero")) {
      const a = line.getBoundingClientRect();
      for (const text of chart.querySelectorAll("text.note")) {
        const b = text.getBoundingClientRect();
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide >= 0 && high >= 0) found.push([text.textContent, wide, high]);
      }
    }
  }
  return found;
})()
"""
SMALL = """
[...document.querySelectorAll("main text")]
  .filter((node) => node.getBoundingClientRect().height && !node.closest(".photo"))
  .filter((node) => node.getScreenCTM().a * parseFloat(getComputedStyle(node).fontSize) < 9)
  .map((node) => node.textContent)
"""
CUT = """
[...document.querySelectorAll(".table")]
  .filter((table) => table.scrollWidth > table.clientWidth)
  .map((table) => `${table.closest("section").id}: ${table.scrollWidth} in ${table.clientWidth}`)
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert EXECUTABLE is not None
    with browser(EXECUTABLE) as opened:
        yield opened


def classes(folder: Path) -> FinishedRun:
    """A classification that nothing passes."""
    items = (measured(arrays=records(3)), measured("fp32", precision="fp32", ms=4.0))
    return open_run(finished_run(folder, *items, gate={"latency_p50_ms": 1.5, "max_drop": {"top1": 0.001}}))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    made = {
        "rich": samples.rich(folder / "rich", candidates=8),
        "single": samples.single(folder / "single"),
        "classes": classes(folder / "classes"),
        "bare": samples.bare(folder / "bare"),
    }
    for name, run in made.items():
        write_report(run, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture(params=["rich", "single", "bare", "classes"])
def report(request: pytest.FixtureRequest, reports: dict[str, Path]) -> Path:
    return reports[request.param]


def test_it_is_quiet_and_asks_the_network_for_nothing(page: Page, report: Path) -> None:
    page.requests.clear()
    page.complaints.clear()
    page.show(*SIZES["desk"])
    page.open(report)
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    assert page.run("document.title") and page.run("document.querySelectorAll('main section').length") > 0
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]


def test_the_policy_stops_a_request_and_a_foreign_script(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["rich"])
    page.complaints.clear()
    outcome = page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.planted = 1'}))"
    )
    assert outcome == "refused" and page.run("window.planted === undefined")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_the_screen(page: Page, report: Path, size: str) -> None:
    width, height = SIZES[size]
    page.show(width, height)
    page.open(report)
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run(CROSSING) == []
    assert page.run(ON_DASHES) == []
    small = page.run(SMALL)
    assert small == []
    if size == "wide":
        assert page.run(CUT) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(page: Page, report: Path, dark: bool) -> None:
    page.show(*SIZES["desk"], dark=dark)
    page.open(report)
    result = page.run(CONTRAST)
    assert result["checked"] >= 20
    assert result["poor"] == []
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert (int(paper[4:].split(",")[0]) < 60) is dark


def test_a_column_sorts_and_says_so(page: Page, reports: dict[str, Path]) -> None:
    page.show(*SIZES["desk"])
    page.open(reports["rich"])
    column = (
        "[...document.querySelector('table[data-sortable]').tBodies[0].rows].map((row) => row.cells[2].dataset.sort)"
    )
    head = "document.querySelector('table[data-sortable]').tHead.rows[0].cells[2]"
    for _, direction in (("once", "ascending"), ("twice", "descending")):
        page.run(f"{head}.querySelector('button').click()")
        assert page.run(f"{head}.getAttribute('aria-sort')") == direction
        values = [float(value) for value in page.run(column) if value not in (None, "")]
        assert len(values) == 8
        assert values == sorted(values, reverse=direction == "descending")


def test_the_gallery_shows_what_is_chosen(page: Page, reports: dict[str, Path]) -> None:
    page.show(*SIZES["desk"])
    page.open(reports["rich"])
    shown = "[...document.querySelector('.filtered').querySelectorAll('.pair')].filter((it) => it.offsetParent).length"
    choose = (
        "(() => {{ const it = document.querySelector('select[data-filter={}]'); it.value = {}; "
        "it.dispatchEvent(new Event('change')); }})()"
    )
    page.complaints.clear()
    assert page.run(shown) == 6
    page.run(choose.format("change", '"worse"'))
    assert page.run(shown) == 3
    page.run(choose.format("class", '"person"'))
    assert page.run(shown) == 1
    assert page.run("document.querySelector('.filters output').textContent") == "1 of 6 shown"
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(shown) == 6
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(shown) == 1
    page.run(choose.format("change", '""'))
    page.run(choose.format("class", '""'))
    assert page.run(shown) == 6 and page.complaints == []


def test_no_heading_ends_a_page_of_paper(page: Page, reports: dict[str, Path]) -> None:
    page.show(*SIZES["desk"], media="print")
    page.open(reports["rich"])
    rule = "[...document.querySelectorAll('{}')].every((it) => getComputedStyle(it).{} === 'avoid')"
    for what in ("h2", "h3", ".lead", "summary", "main thead"):
        assert page.run(rule.format(what, "breakAfter")), what
    for what in (".pair", "tbody tr", ".figure", "main p"):
        assert page.run(rule.format(what, "breakInside")), what


def test_paper_shows_what_is_folded(page: Page, reports: dict[str, Path], tmp_path: Path) -> None:
    page.show(*SIZES["desk"])
    page.open(reports["single"])
    page.pdf(tmp_path / "single.pdf")
    page.open(reports["rich"])
    closed = page.run("document.querySelectorAll('details:not([open])').length")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert closed > 0 and page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == closed
    assert (tmp_path / "single.pdf").read_bytes().startswith(b"%PDF")
