"""The bundle: what ships. The raw engine file, its manifest and its evidence.

    bundle/
      manifest.json      what is inside, with the sha256 and size of every other file
      manifest.sig       optional: 64 raw bytes, Ed25519 over the bytes of manifest.json; manifest.<key id>.sig for
                         each of several keys
      provenance.<key id>.intoto.jsonl
                         with each of them: a DSSE envelope of evidence/provenance.intoto.json
      model.sig          optional: over all files, as OpenSSF Model Signing has it
      engine<SUFFIX>     the engine as its library wrote it, with no header of ours
      model.onnx         what the engine can be rebuilt from
      calibration.cache  where the candidate is INT8, with calibration.cache.json, what the cache is bound to
      known.npz  plugins/  licences/
      evidence/          report.html, result.json, summary.md; the trials of the candidate and of the reference

:func:`verify` reads it as hostile input, in plain Python, before any engine parses a byte of it.
"""

from edgeship.bundle.manifest import MANIFEST, MODEL_SIGNATURE, SIGNATURE, BundledFile, KnownAnswer, Manifest
from edgeship.bundle.trust import Trust
from edgeship.bundle.verify import Verified, opened, verify
from edgeship.bundle.write import Contents, Release, release_bundle, sign_bundle, write, zip_bundle

__all__ = [
    "MANIFEST",
    "MODEL_SIGNATURE",
    "SIGNATURE",
    "BundledFile",
    "Contents",
    "KnownAnswer",
    "Manifest",
    "Release",
    "Trust",
    "Verified",
    "opened",
    "release_bundle",
    "sign_bundle",
    "verify",
    "write",
    "zip_bundle",
]
