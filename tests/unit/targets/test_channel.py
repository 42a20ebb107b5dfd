"""Messages over a pipe: whole ones pass, anything else is named."""

from __future__ import annotations

import os

import pytest

from edgeship.targets.channel import Channel, Closed, Malformed


def heard(data: bytes) -> Channel:
    """A channel that reads ``data`` and then its end."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return Channel(reading, os.open(os.devnull, os.O_WRONLY))


def test_messages_and_payloads_pass_in_order() -> None:
    channel = heard(b'{"payload": 3}\nabc{"finished": true}\n')
    assert channel.receive() == {"payload": 3}
    parts: list[bytes] = []
    channel.payload(3, parts.append)
    assert b"".join(parts) == b"abc"
    assert channel.receive() == {"finished": True}
    with pytest.raises(Closed):
        channel.receive()


@pytest.mark.parametrize("line", [b"a library's own print", b"[1]", b"\xff\xfe", b"[" * 50_000, b"9" * 5000])
def test_what_is_not_a_message_is_named(line: bytes) -> None:
    with pytest.raises(Malformed, match="is not a message"):
        heard(line + b"\n").receive()
