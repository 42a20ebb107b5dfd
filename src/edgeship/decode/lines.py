"""Text lines and embeddings out of a network.

=====  ===============================================================================================================
ctc    text: one output [batch, steps, symbols], scores of each step: the best symbol of each, repeats and blanks
       removed. Symbols are the class names and CTC's blank (``evaluation.ctc_blank`` says where), and perhaps a space
       after the class names, as PaddleOCR has it
vector embeddings: one output [batch, size]
=====  ===============================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeship.decode import dense
from edgeship.decode.predictions import Embedding, Text
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array


def texts(outputs: Mapping[str, Array], rows: int, names: Sequence[str], blank: Literal["first", "last"]) -> list[Text]:
    """The text of each of the first ``rows`` images.

    Raises:
        OutputError: Not one output has that shape, or it has another number of symbols.
    """
    steps = [value for value in outputs.values() if value.ndim == 3]
    if len(steps) != 1:
        raise OutputError(
            f"the model's outputs are {dense.describe(outputs)}; {len(steps) or 'none'} of them could be the text",
            expected="one output [batch, steps, symbols]",
            do="name it in evaluation.output" if steps else "check evaluation.task",
        )
    if rows != steps[0].shape[0] and rows == steps[0].shape[1]:
        raise OutputError(
            f"the text output has shape {list(steps[0].shape)} for {rows} images: the steps come first",
            expected="[batch, steps, symbols]",
            do="transpose the output when the model is exported",
        )
    symbols = steps[0].shape[2]
    if symbols - len(names) not in (1, 2):
        raise OutputError(
            f"the model gives {symbols} symbols a step, {len(names)} class names were given",
            expected="a class name for each symbol but CTC's blank, and perhaps a space at the end",
            do="set evaluation.classes to the dictionary the model was trained with",
        )
    known = [*names, " "][: symbols - 1]
    alphabet = ["", *known] if blank == "first" else [*known, ""]
    found = []
    for best in steps[0][:rows].argmax(axis=2):
        changed = np.concatenate([[True], best[1:] != best[:-1]])
        found.append(Text("".join(alphabet[symbol] for symbol in best[changed])))
    return found


def embeddings(outputs: Mapping[str, Array], rows: int) -> list[Embedding]:
    """The vector of each of the first ``rows`` images; trailing axes of length 1 are dropped.

    Raises:
        OutputError: Not one output is a vector for each image.
    """
    flat = {name: value.reshape(value.shape[:2]) for name, value in outputs.items() if value.ndim >= 2 and _flat(value)}
    if len(flat) != 1:
        raise OutputError(
            f"the model's outputs are {dense.describe(outputs)}; {len(flat) or 'none'} of them could be the embedding",
            expected="one output [batch, size]",
            do="name it in evaluation.output" if flat else "check evaluation.task",
        )
    return [Embedding(vector.astype(np.float32)) for vector in next(iter(flat.values()))[:rows]]


def _flat(value: Array) -> bool:
    return all(side == 1 for side in value.shape[2:])
