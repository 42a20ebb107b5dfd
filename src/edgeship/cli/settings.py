"""Tables of the config given as ``key=value`` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edgeship.config import Preprocess, Section

    S = TypeVar("S", bound=Section)

_LISTS = {"mean", "std"}


def preprocess_of(texts: list[str], base: Preprocess | None = None) -> Preprocess | None:
    """``[preprocess]`` from ``key=value`` texts on top of ``base``; None without either.

    Raises:
        UserInputError: No ``key=value``, an unknown key, or a wrong value.
    """
    from edgeship.config import Preprocess

    if base is None and not texts:
        return None
    return section_of(Preprocess, texts, "--preprocess", base or Preprocess())


def section_of(kind: type[S], texts: list[str], option: str, base: S) -> S:
    """A table of the config with the values that ``key=value`` texts set.

    Raises:
        UserInputError: As :func:`preprocess_of`.
    """
    from edgeship.data.names import suggest
    from edgeship.errors import UserInputError

    values: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserInputError(f"{option} {text!r} is not key=value", expected=f"{option} size=224,224")
        if key not in kind.model_fields:
            raise UserInputError(
                f"{option}: unknown key {suggest(key, list(kind.model_fields))}",
                expected=", ".join(kind.model_fields),
            )
        many = "," in value or key in _LISTS
        values[key] = [part.strip() for part in value.split(",") if part.strip()] if many else value
    return checked(kind, base.model_dump() | values, option)


def checked(kind: type[S], values: dict[str, Any], option: str) -> S:
    """A table of the config from values.

    Raises:
        UserInputError: What is wrong with each of them.
    """
    from pydantic import ValidationError

    from edgeship.errors import UserInputError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}" for item in error.errors()]
        raise UserInputError(f"{option}: " + "; ".join(lines)) from None
