"""YAML from outside: plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.data.formats.common import text_of
from edgeship.errors import DataError, MissingExtra


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        DataError: Absent, not YAML, or not a mapping.
        MissingExtra: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtra(f"reading {path.name}", "yaml", "host") from None
    try:
        content = yaml.safe_load(text_of(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}", do="fix the file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no settings", expected="names: and perhaps val:", do="fix evaluation.labels")
    return content
