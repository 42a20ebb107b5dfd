"""Stands in for ``ssh``: an agent that serves one finished trial honestly, apart from what its orders say.

Run as a program it answers on its pipes; ``DEVICE_ORDERS`` names a JSON file with ``greeting`` (the honest reply to
``hello``), ``trial`` (the folder of a finished trial, whose results it offers) and ``replies``: request → the bytes to
answer with instead, in base64, with ``{"then": "close"}`` or ``{"times": n}`` beside them. Imported, it writes orders.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PRODUCTS = ("build.json", "audit.json", "latency.json", "evaluation.json", "latency.npz", "records.npz", "outputs.npz",
            "known.npz", "build.log", "engine.onnx", "trial.json")  # fmt: skip


def place_ssh(folder: Path) -> Path:
    """A folder with this program as ``ssh``, to stand first in PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "ssh"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{Path(__file__).resolve()}"\n')
    script.chmod(0o755)
    return folder


def orders(
    folder: Path, greeting: dict[str, Any], replies: dict[str, bytes | dict[str, Any]], **extra: dict[str, Any]
) -> str:
    """Orders as JSON, for the finished trial in ``folder``. ``extra``: request → ``then`` or ``times``."""
    told = {
        do: reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n" for do, reply in replies.items()
    }
    encoded = {do: {"bytes": base64.b64encode(data).decode(), **extra.get(do, {})} for do, data in told.items()}
    return json.dumps({"trial": str(folder), "greeting": greeting, "replies": encoded})


def honest(do: str, request: dict[str, Any], told: dict[str, Any]) -> tuple[dict[str, Any] | None, bytes]:
    """What an honest agent answers: a message, and the bytes after it."""
    trial = Path(told["trial"])
    files = [trial / name for name in PRODUCTS if (trial / name).is_file()]
    if do == "list":
        listed = {path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files}
        return {"files": listed}, b""
    if do == "get":
        data = (trial / request["name"]).read_bytes()
        return {"name": request["name"], "payload": len(data)}, data
    facts = {"identity": {"engine": "onnxruntime"}, "installed": {"available": True}, "trtexec": None, "libraries": {}}
    plain: dict[str, dict[str, Any]] = {
        "hello": told["greeting"],
        "machine": {"machine": facts},
        "have": {"missing": []},
        "tree": {"path": "/x"},
        "modules": {"missing": [], "place": "/x"},
        "follow": {"finished": True},
    }
    return (None if do == "blob" else plain.get(do, {"ok": True, "path": "/x"})), b""


def main() -> None:
    """Answer until the other end is gone."""
    told = json.loads(Path(os.environ["DEVICE_ORDERS"]).read_text())
    out, reading = sys.stdout.buffer, sys.stdin.buffer
    for text in iter(reading.readline, b""):
        request = json.loads(text)
        reading.read(request.get("payload", 0))
        do = request["do"]
        reply = told["replies"].get(do)
        if reply is None:
            message, payload = honest(do, request, told)
            if message is not None:
                out.write(json.dumps(message).encode() + b"\n" + payload)
        else:
            data = base64.b64decode(reply["bytes"])
            for _ in range(reply.get("times", 1)):
                out.write(data)
        out.flush()
        if reply is not None and reply.get("then") == "close":
            return
        if reply is not None and reply.get("then") == "silence":
            time.sleep(3600)


if __name__ == "__main__":
    main()
