"""The toolchains that edgeship is pinned to: one table for containers/, the compatibility page and ``doctor``.

A host is compared with each by what that one pins; a host that lacks something that is pinned differs in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Evidence = Literal["run", "built", "checked"]
"""What was seen of an engine here: it built and ran; it built; its calls were checked against NVIDIA's bindings."""


@dataclass(frozen=True)
class Toolchain:
    """A set of versions that belong together.

    Args:
        name: Its folder in ``containers/``.
        title: For whom.
        base: The base image by tag. Its digest is not pinned here: no registry could be asked.
        machine: ``uname -m``.
        extras: Of edgeship, that the image installs.
        versions: What is compared with a host, under the names that ``doctor`` uses.
        pip: Packages beside edgeship's, each with its version.
        does: What was seen of each engine, where this was developed.
        source: Where the versions come from.
    """

    name: str
    title: str
    base: str
    machine: str
    extras: tuple[str, ...]
    versions: Mapping[str, str]
    pip: tuple[str, ...]
    does: Mapping[str, Evidence]
    source: str

    def differences(self, facts: Mapping[str, str]) -> list[str]:
        """What a host has otherwise, as ``torch 2.11.0 instead of 2.13.0``.

        Args:
            facts: Name → version, as :func:`edgeship.doctor.examine` finds them, with ``machine``.
        """
        found = []
        for name, pinned in {"machine": self.machine, **self.versions}.items():
            here = facts.get(name, "")
            if not _same(here, pinned):
                found.append(f"{name} {here} instead of {pinned}" if here else f"no {name} ({pinned} there)")
        return found


@cache
def toolchains() -> tuple[Toolchain, ...]:
    """Every toolchain, in the order of the table."""
    rows = json.loads((files("edgeship") / "toolchains.json").read_text(encoding="utf-8"))["toolchains"]
    return tuple(Toolchain(**{**row, "extras": tuple(row["extras"]), "pip": tuple(row["pip"])}) for row in rows)


def nearest(facts: Mapping[str, str]) -> tuple[Toolchain, list[str]]:
    """The toolchain that a host differs from in the smallest share of what it pins, with the differences."""
    found = [(chain, chain.differences(facts)) for chain in toolchains()]
    return min(found, key=lambda item: len(item[1]) / (len(item[0].versions) + 1))


def words(facts: Mapping[str, str]) -> str:
    """The nearest toolchain in one sentence: ``equals workstation except torch 2.11.0 instead of 2.13.0``."""
    chain, apart = nearest(facts)
    return f"equals {chain.name}" + (f" except {'; '.join(apart)}" if apart else "")


def _same(here: str, pinned: str) -> bool:
    """Whether a version begins with the pinned one, part by part; a local part (``+cpu``) is not compared."""
    ours, theirs = here.split("+", maxsplit=1)[0].split("."), pinned.split(".")
    return bool(here) and ours[: len(theirs)] == theirs
