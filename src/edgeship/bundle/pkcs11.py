"""A signing key in a PKCS#11 token (a smart card, an HSM), named by its URI (RFC 7512), for ``model_signing``.

The key never leaves the token. Its PIN comes from EDGESHIP_PIN or from the file that ``pin-source`` names, never from
the command line, where everybody on the machine could read it.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from edgeship.errors import MissingExtra, UnsafeFile, UserInputError
from edgeship.files import read_bytes
from edgeship.text import line

SCHEME = "pkcs11:"
FORM = "pkcs11:token=TOKEN;object=KEY?module-path=/usr/lib/softhsm/libsofthsm2.so"
GIVE_PIN = "set EDGESHIP_PIN, or name a file that holds the PIN: pin-source=file:/absolute/path"
MAX_PIN_BYTES = 256


def is_uri(key: Path | str) -> bool:
    """Whether ``key`` names a key in a token, and not a file."""
    return isinstance(key, str) and key.startswith(SCHEME)


def token_signer(config: Any, uri: str, pin: str | None) -> Any:
    """``config``, a ``model_signing.signing.Config``, with the key in a token that ``uri`` names.

    Args:
        config: What is to sign.
        uri: Token, key (``object`` or ``id``) and the token's library (``module-path``).
        pin: Of the token; None: from the URI's ``pin-source``, or none.

    Raises:
        UserInputError: The URI is malformed, library, token or key are absent, the PIN is wrong, or the key is not on
            NIST P-256, P-384 or P-521.
        MissingExtra: The ``PyKCS11`` package is not installed.
    """
    if importlib.util.find_spec("PyKCS11") is None:
        raise MissingExtra("signing with a key in a PKCS#11 token", "PyKCS11", "model-signing")
    if "pin-value" in uri:
        raise UserInputError(
            "the URI holds the PIN (pin-value), which everybody on this machine can read in the list of processes",
            expected="a URI without it",
            do=f"change the PIN; then {GIVE_PIN}",
        )
    named, _, query = uri.partition("?")
    wanted = dict(part.partition("=")[::2] for part in query.split("&") if part)
    module = _module(named, wanted)
    pin = _pin(named, wanted, pin)
    given = {"module-path": module, **({} if pin is None else {"pin-value": pin})}
    whole = named + "?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())
    try:
        with token_refusals(uri):
            return config.use_pkcs11_signer(pkcs11_uri=whole)
    except (ValueError, TypeError, OverflowError) as error:
        traceback.clear_frames(error.__traceback__)  # they hold the session: who keeps the error would stay logged in
        more = "" if pin is not None else f"; no PIN was given, without which a token shows no private key: {GIVE_PIN}"
        raise UserInputError(
            f"{line(named)}: {line(str(error))[:200]}",
            expected="a token, and in it a private key and its public key on NIST P-256, P-384 or P-521",
            do=f"correct the URI{more}",
        ) from None


@contextmanager
def token_refusals(key: Path | str) -> Iterator[None]:
    """Turn what the library of the token that ``key`` names refuses into UserInputError; a file has no token."""
    if not is_uri(key):
        yield
        return
    library: Any = importlib.import_module("PyKCS11")
    named = line(str(key).partition("?")[0])
    try:
        yield
    except library.PyKCS11Error as error:
        if error.value in (library.CKR_PIN_INCORRECT, library.CKR_PIN_LEN_RANGE, library.CKR_PIN_INVALID):
            raise UserInputError(
                f"{named}: the token does not take the PIN",
                do=f"{GIVE_PIN}; mind that a token locks after a few wrong ones",
            ) from None
        raise UserInputError(
            f"{named}: the token's library refuses: {line(str(error))[:200]}",
            expected="a PKCS#11 library, and in its token a key that may sign (CKM_ECDSA)",
            do="correct module-path, token and object, or unlock the token",
        ) from None


def _module(named: str, wanted: dict[str, str]) -> str:
    """The token's library."""
    unknown = set(wanted) - {"module-path", "pin-source"}
    module = unquote(wanted.get("module-path", ""))
    if unknown or not Path(module).is_absolute() or not Path(module).is_file():
        found = f"it has {', '.join(sorted(unknown))}" if unknown else f"module-path {module!r} is not a file"
        raise UserInputError(
            f"{line(named)}: {line(found)}",
            expected="the token's PKCS#11 library by its absolute path, and at most pin-source beside it",
            do=f"name it as in {FORM}",
        )
    return module


def _pin(named: str, wanted: dict[str, str], pin: str | None) -> str | None:
    """The PIN as given, or from the file that ``pin-source`` names, without its line's end."""
    source = urlsplit(unquote(wanted.get("pin-source", "")))
    if source.path and pin is None:
        if source.scheme not in ("", "file") or not Path(source.path).is_absolute():
            raise UserInputError(f"{line(named)}: pin-source is not a file by its absolute path", do=GIVE_PIN)
        try:
            pin = read_bytes(Path(source.path), MAX_PIN_BYTES).decode().rstrip("\r\n")
        except (OSError, UnsafeFile, UnicodeDecodeError):
            raise UserInputError(
                f"the file of the PIN, {line(source.path)}, cannot be read as one line of text", do=GIVE_PIN
            ) from None
    if pin is not None and not (pin.isascii() and pin.isprintable() and pin):
        raise UserInputError(
            f"{line(named)}: the PIN is empty, or has characters beyond printable ASCII",
            expected="what model_signing can give to a token: a wrong PIN too often locks it",
            do=GIVE_PIN,
        )
    return pin
