"""Ed25519 signatures over the bytes of manifest.json, by the ``cryptography`` package.

The signature is 64 raw bytes, so ``openssl pkeyutl -verify -rawin`` checks it too.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.bundle.manifest import SIGNATURE_BYTES
from edgeship.errors import MissingExtra, UnsafeFile, UserInputError
from edgeship.files import read_bytes, write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 1 << 16
MAKE_KEYS = "openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out pub.pem"


def sign(data: bytes, key: Path, *, password: bytes | None = None) -> bytes:
    """Sign ``data`` with the private key in ``key`` (PEM PKCS#8, or OpenSSH).

    Raises:
        UserInputError: The file is not an Ed25519 private key, or needs a password.
        MissingExtra: The ``cryptography`` package is not installed.
    """
    return _private(key, password).sign(data)


def matches(data: bytes, signature: bytes, key: Path) -> bool:
    """Whether ``signature`` over ``data`` is by the public key in ``key`` (PEM, or an OpenSSH ``.pub`` line).

    Raises:
        UserInputError: The file is not an Ed25519 public key.
        MissingExtra: The ``cryptography`` package is not installed.
    """
    public = _public(key)
    from cryptography.exceptions import InvalidSignature

    try:
        if len(signature) != SIGNATURE_BYTES:
            return False
        public.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def key_id(key: Path, *, password: bytes | None = None, private: bool = False) -> str:
    """The id of a key: the first 16 hexadecimal digits of the SHA-256 of its 32 raw public bytes.

    Raises as :func:`matches` and :func:`sign` do.
    """
    public = _private(key, password).public_key() if private else _public(key)
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def make_keys(private: Path, public: Path) -> None:
    """Write a new Ed25519 key pair as PEM; the private file is readable by its owner alone."""
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    write_bytes(
        private,
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    private.chmod(0o600)
    write_bytes(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))


def _need_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtra("signing a bundle or checking a signature", "cryptography", "sign")


def _private(path: Path, password: bytes | None) -> Ed25519PrivateKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    data = _key_bytes(path)
    load = serialization.load_ssh_private_key if b"OPENSSH" in data[:64] else serialization.load_pem_private_key
    try:
        key = load(data, password)
    except TypeError:
        raise UserInputError(
            f"the private key {path} is encrypted", do="set EDGESHIP_KEY_PASSWORD and run again"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserInputError(f"{path} is not a private key that can be read: {error}", do=MAKE_KEYS) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserInputError(f"{path} is not an Ed25519 private key", do=MAKE_KEYS)
    return key


def _public(path: Path) -> Ed25519PublicKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    data = _key_bytes(path)
    load = serialization.load_ssh_public_key if data.startswith(b"ssh-") else serialization.load_pem_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserInputError(f"{path} is not a public key that can be read: {error}", do=MAKE_KEYS) from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UserInputError(f"{path} is not an Ed25519 public key", do=MAKE_KEYS)
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_KEY_BYTES)
    except UnsafeFile as error:
        raise UserInputError(f"{error.found}, which is not a key", expected=error.expected, do=MAKE_KEYS) from None
    except OSError as error:
        raise UserInputError(f"the key {path} cannot be read: {error.strerror}", do=MAKE_KEYS) from None
