"""Elliptic keys for OpenSSF model signatures."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def elliptic(folder: Path, name: str = "ec") -> tuple[Path, Path]:
    """A new P-256 key pair: private, public."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private, public = folder / f"{name}.pem", folder / f"{name}-pub.pem"
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public
