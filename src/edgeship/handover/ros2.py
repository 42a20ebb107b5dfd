"""A ROS 2 package: a node around the C++ library, in which the call of the engine is the reader's."""

from __future__ import annotations

from pathlib import Path

from edgeship.errors import DataError
from edgeship.handover import cpp_library
from edgeship.handover.source import Source

HERE = Path(__file__).parent


def files(source: Source) -> tuple[dict[str, bytes], list[str]]:
    """The package. Raises DataError for another task than detection, and as the C++ library does."""
    if source.evaluation.task != "detection":
        raise DataError(
            f"the node publishes detections, and the task is {source.evaluation.task}",
            do="take --for cpp and publish what your graph needs",
        )
    made, _ = cpp_library.files(source)
    made = {name: data for name, data in made.items() if name not in ("CMakeLists.txt", "frame.cpp")}
    made |= {path.name: path.read_bytes() for path in sorted((HERE / "ros2").iterdir())}
    return made, ["a template: write infer() in node.cpp with the engine's library; not compiled where it was written"]
