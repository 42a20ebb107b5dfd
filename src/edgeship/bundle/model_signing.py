"""A second signature of a bundle, over all of its files: ``model.sig``, as OpenSSF Model Signing 1.0 has it.

For those who check every model by one standard tool; a vehicle needs the Ed25519 signature alone, and no package for
this one. The key is an elliptic one (NIST P-256, P-384 or P-521) in a file or in a PKCS#11 token. The tool itself
checks the signature too::

    model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key pub.pem

with ``--ignore-paths`` for each ``manifest*.sig`` and ``provenance.*.intoto.jsonl``, which may be added later and so
are not covered.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from edgeship.bundle.manifest import GET_AGAIN, MODEL_SIGNATURE, is_unlisted
from edgeship.bundle.pkcs11 import is_uri, token_refusals, token_signer
from edgeship.errors import BundleError, MissingExtra, UserInputError
from edgeship.files import storage_errors
from edgeship.text import line

MAKE_KEYS = (
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out pub.pem"
)


def sign_model(folder: Path, key: Path | str, *, password: str | None = None) -> Path:
    """Write ``model.sig`` of the bundle in ``folder``, which was verified, and return its path.

    Args:
        folder: The bundle.
        key: The file of a private elliptic key, or the URI of one in a PKCS#11 token (``pkcs11:…``, RFC 7512).
        password: Of the file, or the PIN of the token.

    Raises:
        UserInputError: The file is not a private elliptic key, or needs a password; or the token cannot sign with it.
        MissingExtra: The ``model-signing`` package is not installed.
    """
    _need_package()
    signing: Any = importlib.import_module("model_signing.signing")

    place = folder / MODEL_SIGNATURE
    try:
        config = signing.Config()
        if is_uri(key):
            signer = token_signer(config, str(key), password)
        else:
            signer = config.use_elliptic_key_signer(private_key=key, password=password)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserInputError(f"{key} is not a private elliptic key{_why(error)}", do=MAKE_KEYS) from None
    with storage_errors(place), token_refusals(key):
        signer.set_hashing_config(_hashing(folder)).sign(folder.resolve(), place.resolve())
    return place


def check_model(folder: Path, key: Path) -> None:
    """Check ``model.sig`` of the bundle in ``folder`` by a public elliptic key.

    Raises:
        BundleError: It is missing, of another key, or a file is not as it was when it was signed.
        UserInputError: The file is not a public elliptic key.
        MissingExtra: The ``model-signing`` package is not installed.
    """
    _need_package()
    verifying: Any = importlib.import_module("model_signing.verifying")

    place = folder / MODEL_SIGNATURE
    if not place.is_file():
        raise BundleError(
            f"{folder}: {MODEL_SIGNATURE} is missing",
            expected="a signature as OpenSSF Model Signing has it",
            do="edgeship bundle BUNDLE --model-signing KEY where it was made",
        )
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserInputError(f"{key} is not a public elliptic key{_why(error)}", do=MAKE_KEYS) from None
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder.resolve(), place.resolve())
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(
            f"{folder}: {MODEL_SIGNATURE} does not match: {line(str(error))[:300]}",
            expected=f"the files that the key in {key} signed, unchanged",
            do=GET_AGAIN,
        ) from None


def _why(error: Exception) -> str:
    """What was wrong with a key; nothing where the package only stumbles over one of another kind."""
    return "" if isinstance(error, AttributeError) else f": {line(str(error))[:300]}"


def _hashing(folder: Path) -> Any:
    """All files of a bundle but its signatures."""
    hashing: Any = importlib.import_module("model_signing.hashing")

    whole = folder.resolve()  # a relative path would be one inside the bundle
    own = [path for path in whole.iterdir() if is_unlisted(path.name)]
    return hashing.Config().set_ignored_paths(paths=[whole / MODEL_SIGNATURE, *own], ignore_git_paths=False)


def _need_package() -> None:
    for package in ("model_signing", "OpenSSL"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("an OpenSSF model signature", package, "model-signing")
