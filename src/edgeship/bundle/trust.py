"""Which bundles are accepted: the keys, how many of them must have signed, and which releases of which model.

The signed release number, model id and expiry follow The Update Framework (TUF): a signature shows that a bundle once
was right, the number that it is not an older one put back, the expiry that it is not held back for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeship.bundle import sign
from edgeship.bundle.manifest import GET_AGAIN, MOMENT, SIGNATURE, Manifest, signature_name
from edgeship.errors import BundleError, UserInputError


@dataclass(frozen=True)
class Trust:
    """What a bundle must show before it is accepted.

    Args:
        keys: Ed25519 public keys.
        threshold: How many different ones of them must have signed; None: all.
        min_release: The least release number: the one in the vehicle now.
        model_id: The model that is expected.
        allow_expired: Take one that has expired: who made it gives it a later expiry.

    Raises:
        UserInputError: The threshold is above the number of keys, or a release or model is asked for without a key.
    """

    keys: tuple[Path, ...] = ()
    threshold: int | None = None
    min_release: int | None = None
    model_id: str | None = None
    allow_expired: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 1 <= self.threshold <= len(self.keys):
            raise UserInputError(
                f"{_count(self.threshold, 'signature')} asked for, and {_count(len(self.keys), 'key')} given",
                expected="a threshold from 1 to the number of keys",
                do="give more keys, or a smaller threshold",
            )
        if not self.keys and (self.min_release is not None or self.model_id is not None):
            raise UserInputError(
                "a release number or model id is asked for without a key",
                expected="a signature over them: without one, anybody can change them",
                do="give the public key too",
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


ANYBODY = Trust()


def trust_in(key: Trust | Path | None) -> Trust:
    """One key, or none, as a :class:`Trust`."""
    if isinstance(key, Trust):
        return key
    return ANYBODY if key is None else Trust((key,))


def check_signatures(data: bytes, found: Mapping[str, bytes], trust: Trust, where: str) -> None:
    """Check the signatures over the bytes of a manifest.

    Args:
        data: The manifest.
        found: The bundle's signature files by name.
        trust: The keys whose signatures are needed.
        where: The bundle, for messages.

    Raises:
        BundleError: Fewer keys than the threshold have signed.
        UserInputError: A key cannot be read, or one key was given twice.
    """
    if not trust.keys:
        return
    identities = {sign.key_id(key): key for key in trust.keys}
    if len(identities) < len(trust.keys):
        raise UserInputError("one key was given twice", expected="different keys", do="give each key once")
    needed = len(identities) if trust.threshold is None else trust.threshold
    if not found:
        raise BundleError(
            f"{where}: it is not signed ({SIGNATURE} is missing)",
            expected=_wanted(trust, needed),
            do=GET_AGAIN,
        )
    signed = [key for name, key in identities.items() if _signed(data, found, name, key)]
    if len(signed) < needed:
        absent = [str(key) for key in trust.keys if key not in signed]
        said = f"{len(signed)} of {needed} needed signatures match: none from {', '.join(absent)}"
        raise BundleError(
            f"{where}: {f'the signature is not from the key in {absent[0]}' if len(identities) == 1 else said}",
            expected=_wanted(trust, needed),
            do=GET_AGAIN,
        )


def _wanted(trust: Trust, needed: int) -> str:
    keys = ", ".join(map(str, trust.keys))
    by = f"by the key in {keys}" if len(trust.keys) == 1 else f"by {needed} of the {len(trust.keys)} keys in {keys}"
    return f"an Ed25519 signature over manifest.json {by}"


def _signed(data: bytes, found: Mapping[str, bytes], identity: str, key: Path) -> bool:
    names = (signature_name(identity), SIGNATURE)
    return any(name in found and sign.matches(data, found[name], key) for name in names)


def check_release(manifest: Manifest, trust: Trust, where: str) -> None:
    """Check model, release number and expiry.

    Raises:
        BundleError: Another model, an older release, or expired by this machine's clock.
    """
    if trust.model_id is not None and manifest.model_id != trust.model_id:
        what = "names no model" if manifest.model_id is None else f"is the model {manifest.model_id!r}"
        raise BundleError(
            f"{where}: it {what}",
            expected=f"the model {trust.model_id!r}",
            do="get that model's bundle from where it was made",
        )
    if trust.min_release is not None and (manifest.release is None or manifest.release < trust.min_release):
        what = "has no release number" if manifest.release is None else f"is release {manifest.release}"
        raise BundleError(
            f"{where}: it {what}",
            expected=f"release {trust.min_release} or later: an older bundle is not accepted",
            do="get the newest bundle from where it was made",
        )
    now = time.strftime(MOMENT, time.gmtime())
    if manifest.expires is not None and now > manifest.expires and not trust.allow_expired:
        raise BundleError(
            f"{where}: it expired at {manifest.expires}, and it is {now}",
            expected="a bundle that is still valid, or the right time on this machine",
            do="get the newest bundle from where it was made; there, edgeship bundle --expires gives a later time",
        )
