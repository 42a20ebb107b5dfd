"""JUnit XML for CI systems: one case for each rule of each candidate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from edgeship.files import write_bytes
from edgeship.results import Decision, Judged

_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(decisions: Sequence[Decision]) -> bytes:
    """The XML of one or several targets' decisions.

    A verdict that is not SHIP is a failure, and so is every rule that stood in its way. On a SHIP, the rules that
    candidates other than the chosen one did not pass are shown as skipped: they did not decide the build.
    """
    root = ElementTree.Element("testsuites", name="edgeship")
    for decision in decisions:
        root.append(_verdict(decision))
        for judged in decision.judged:
            root.append(_suite(decision, judged))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def write(decisions: Sequence[Decision], path: Path) -> None:
    """Write :func:`render` to ``path``, atomically."""
    write_bytes(path, render(decisions))


def broken(name: str, why: str) -> ElementTree.Element:
    """The suite of something that came to no verdict."""
    suite = _element("testsuite", name=name, tests="1", failures="0", errors="1", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", classname=f"edgeship.{name}", name="verdict")
    case.append(_element("error", message=why, type="ERROR"))
    return suite


def _verdict(decision: Decision) -> ElementTree.Element:
    shipped = decision.verdict == "SHIP"
    name = f"{decision.target_name}: verdict"
    suite = _element("testsuite", name=name, tests="1", failures=str(int(not shipped)), errors="0", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", classname=f"edgeship.{decision.target_name}", name="verdict")
    if not shipped:
        case.append(_element("failure", message=decision.sentence, type=decision.verdict))
    return suite


def _suite(decision: Decision, judged: Judged) -> ElementTree.Element:
    decisive = decision.verdict != "SHIP" or decision.chosen == judged.candidate
    broken = [rule for rule in judged.rules if rule.outcome != "pass"]
    suite = _element(
        "testsuite",
        name=f"{decision.target_name}: {judged.candidate}",
        tests=str(len(judged.rules)),
        failures=str(len(broken) if decisive else 0),
        errors="0",
        skipped=str(0 if decisive else len(broken)),
    )
    for rule in judged.rules:
        case = _element("testcase", classname=f"edgeship.{decision.target_name}.{judged.candidate}", name=rule.name)
        if rule.outcome != "pass":
            case.append(_element("failure" if decisive else "skipped", message=rule.reason, type=rule.outcome))
        else:
            ElementTree.SubElement(case, "system-out").text = _clean(rule.reason)
        suite.append(case)
    return suite


def _element(tag: str, **attributes: str) -> ElementTree.Element:
    if tag == "skipped":
        attributes.pop("type", None)
    return ElementTree.Element(tag, {name: _clean(value) for name, value in attributes.items()})


def _clean(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return _CONTROL.sub("�", text)
