"""The provenance statement of a bundle in a signed envelope: DSSE 1.0.0, as in-toto attestations and SLSA ask for.

``provenance.<key id>.intoto.jsonl`` is one line of JSON: the statement's bytes and an Ed25519 signature over its
pre-authentication encoding (PAE). Method: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeship.bundle import sign
from edgeship.bundle.manifest import ENVELOPE_BYTES, GET_AGAIN, STATEMENT, envelope_name
from edgeship.errors import BundleError
from edgeship.files import parse_json
from edgeship.text import line

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def pae(payload: bytes) -> bytes:
    """What is signed in place of ``payload``: the payload with its type and the lengths of both."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def enveloped(statement: bytes, key: Path, *, password: bytes | None = None) -> tuple[str, bytes]:
    """The name and the bytes of the envelope of ``statement``, signed with the Ed25519 private key in ``key``.

    Raises:
        BundleError: The envelope would be larger than a bundle may hold.
        UserInputError: The key cannot be used.
    """
    identity = sign.key_id(key, password=password, private=True)
    signature = sign.sign(pae(statement), key, password=password)
    made = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [{"keyid": identity, "sig": base64.b64encode(signature).decode()}],
    }
    data = (json.dumps(made) + "\n").encode()
    if len(data) > ENVELOPE_BYTES:
        raise BundleError(
            f"{STATEMENT} has {len(statement)} bytes, and its signed envelope {len(data)}",
            expected=f"an envelope of at most {ENVELOPE_BYTES} bytes",
        )
    return envelope_name(identity), data


def check_envelopes(
    statement: bytes | None, found: Mapping[str, bytes], keys: tuple[Path, ...], where: str
) -> tuple[str, ...]:
    """Check the envelopes by ``keys`` that are there, and return the ids of the keys whose envelopes were checked.

    Args:
        statement: The bundle's provenance statement, None where it has none.
        found: The bundle's envelopes by name.
        keys: Ed25519 public keys. A key without an envelope asks for none; envelopes of other keys are not read.
        where: The bundle, for messages.

    Raises:
        BundleError: An envelope is malformed, holds another statement, or its signature is not from its key.
        UserInputError: A key cannot be read.
    """
    identities = {sign.key_id(key): key for key in keys} if found else {}
    checked = {identity: key for identity, key in identities.items() if envelope_name(identity) in found}
    for identity, key in checked.items():
        name = envelope_name(identity)
        try:
            payload, signature = _parts(found[name], identity)
        except (ValueError, KeyError, TypeError) as error:
            raise _wrong(where, f"{name} is not a DSSE envelope by one key: {line(str(error))[:200]}") from None
        if payload != statement:
            raise _wrong(where, f"{name} holds another statement than {STATEMENT}")
        if not sign.matches(pae(payload), signature, key):
            raise _wrong(where, f"the signature in {name} is not from the key in {key}")
    return tuple(checked)


def _parts(data: bytes, identity: str) -> tuple[bytes, bytes]:
    """The payload and the signature of an envelope that holds these and nothing else."""
    read: Any = parse_json(data.decode("utf-8"))
    if set(read) != {"payloadType", "payload", "signatures"} or read["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"payloadType {PAYLOAD_TYPE}, payload and signatures are expected")
    (only,) = read["signatures"]
    if set(only) != {"keyid", "sig"} or only["keyid"] != identity:
        raise ValueError(f"one signature with the keyid {identity} is expected")
    return base64.b64decode(read["payload"], validate=True), base64.b64decode(only["sig"], validate=True)


def _wrong(where: str, found: str) -> BundleError:
    return BundleError(f"{where}: {found}", expected=f"the signed envelope of {STATEMENT}, unchanged", do=GET_AGAIN)
