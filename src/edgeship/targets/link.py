"""A connection to a device: the system's ``ssh`` running ``python3 -m edgeship.targets.remote serve`` there.

Connections are kept between the trials of one run. Host keys, users, ports, jump hosts and identities are the
user's own (``~/.ssh/config``); nothing is asked at the terminal.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from edgeship.config import Target
from edgeship.errors import MissingExtra, TargetError, UserInputError
from edgeship.targets import replies, wire
from edgeship.targets.channel import MAX_REPLY_BYTES, Channel, Closed, Malformed
from edgeship.text import line, printable
from edgeship.version import __version__

OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=ERROR")
HELLO_S = 60.0
REPLY_S = 90.0
"""Longest time for an answer, where the device need not read or write much for it."""
LAST_WORDS_BYTES = 1 << 13
R = TypeVar("R", bound=replies.Reply)
_idle: dict[tuple[str | None, str, str], list[Link]] = {}
_reached: set[str] = set()
_guard = threading.Lock()
_stopping = threading.Event()


def stop_all() -> None:
    """End every trial that another thread of this process waits for over SSH.

    Call it when Ctrl-C reaches the main thread: those threads then raise KeyboardInterrupt, and nothing is left
    running on the devices.
    """
    _stopping.set()


def start_all() -> None:
    """Undo :func:`stop_all`, once those threads have ended: a later run in the same process is not stopped."""
    _stopping.clear()


def is_stopping() -> bool:
    """Whether :func:`stop_all` was called."""
    return _stopping.is_set()


def _check() -> None:
    if _stopping.is_set():
        raise KeyboardInterrupt


def wait(seconds: float) -> None:
    """Sleep, unless :func:`stop_all` is called."""
    if _stopping.wait(seconds):
        raise KeyboardInterrupt


def stop_trial(target: Target, trial: str) -> None:
    """End a trial on the device over a connection of its own; silently, when the device cannot be reached."""
    with contextlib.suppress(TargetError, Closed, Malformed):
        link = Link(target, lambda: None)
        try:
            link.channel.send({"do": "stop", "trial": trial})
            link.channel.receive(20.0, limit=MAX_REPLY_BYTES)
        finally:
            link.close()


@contextmanager
def borrowed(target: Target) -> Iterator[Link]:
    """A connection to ``target``, a kept one where there is one. A broken one is not kept.

    Raises:
        Closed: A device that was reached before is away.
        TargetError: It was never reached, or lacks the light install.
    """
    where = (target.host, target.python, target.remote_dir)
    with _guard:
        kept = _idle.get(where, [])
        link = kept.pop() if kept else None
    link = link or Link(target)
    link.useful = False
    try:
        yield link
    except BaseException:
        link.close()
        raise
    with _guard:
        _idle.setdefault(where, []).append(link)


@atexit.register
def close_all() -> None:
    """Close the kept connections."""
    with _guard:
        links = [link for kept in _idle.values() for link in kept]
        _idle.clear()
    for link in links:
        link.close()


class Link:
    """One ``ssh`` process and the agent behind it."""

    def __init__(self, target: Target, check: Callable[[], None] = _check) -> None:
        assert target.host is not None
        self.host = target.host
        self._target = target
        command = _command(target)
        self.useful = False
        """Whether the device did something over this connection since it was borrowed: it is worth another one."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._last_words = bytearray()
        self._drain = threading.Thread(target=self._listen, daemon=True)
        self._drain.start()
        self.channel = Channel(self._process.stdout.fileno(), self._process.stdin.fileno(), check)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        """Keep the end of what ``ssh`` and the device say on standard error, however much it is."""
        assert self._process.stderr is not None
        while data := os.read(self._process.stderr.fileno(), LAST_WORDS_BYTES):
            self._last_words += data
            del self._last_words[:-LAST_WORDS_BYTES]

    def _greet(self) -> None:
        try:
            self.channel.send({"do": "hello"})
            reply = self.channel.receive(HELLO_S, limit=MAX_REPLY_BYTES)
        except Closed:
            raise self._explain() from None
        except Malformed:
            raise TargetError(
                f"{self.host} prints text of its own when a program is started over ssh",
                expected="a login that is silent when it is not interactive",
                do="move what it prints in its shell start-up files behind a test for an interactive shell",
            ) from None
        if reply is None:
            raise TargetError(f"{self.host} did not answer within {HELLO_S:g} s", do=f"try: ssh {self.host} true")
        self.raise_error(reply)
        if reply.get("protocol") != wire.PROTOCOL or reply.get("edgeship") != __version__:
            raise TargetError(
                f"{self.host} has edgeship {line(str(reply.get('edgeship')))[:40]}, this is {__version__}",
                expected="the same version on both",
                do=self._install(),
            )
        hello = replies.check(replies.Hello, reply, self.host)
        self.base, self.free = hello.base, hello.free
        _reached.add(self.host)

    def ask(
        self, request: dict[str, Any], kind: type[R], *, limit: int = MAX_REPLY_BYTES, wait_s: float = REPLY_S
    ) -> R:
        """The reply to a request.

        Args:
            request: What the device is to do.
            kind: The form of its reply.
            limit: The most bytes of the reply.
            wait_s: The longest time to wait for it.

        Raises:
            EdgeshipError: What the device reports.
            TargetError: Something else than a reply, or none in time.
            Closed: The connection is lost.
        """
        self.channel.send(request)
        reply = self.channel.receive(wait_s, limit=limit)
        if reply is None:
            raise TargetError(
                f"{self.host} did not answer {request['do']!r} within {wait_s:g} s",
                do=f"look at what {self.host} is busy with, then run the same command again",
            )
        self.raise_error(reply)
        return replies.check(kind, reply, self.host)

    def raise_error(self, message: dict[str, Any]) -> None:
        """Raise the error that a message reports, if it does."""
        error = replies.error_of(message, self._target)
        if error is not None:
            raise error

    def _install(self) -> str:
        python = self._target.python
        return f"ssh {self.host} {shlex.quote(f'{python} -m pip install edgeship=={__version__}')}"

    def _explain(self) -> Exception:
        """Why ``ssh`` ended, from its exit code and its own words."""
        code = self._process.wait()
        self._drain.join(2.0)
        said = printable(self._last_words.decode("utf-8", "replace")).strip()
        last = said.splitlines()[-1][:300] if said else f"exit code {code}"
        if code == 255 or code < 0:
            denied = any(
                word in said for word in ("Permission denied", "verification failed", "Bad owner", "not resolve")
            )
            # "Connection to HOST closed by remote host" is said only of a session that was open, and nothing at all
            # when what it had started there was killed: the host was reached.
            opened = not said or ("Connection to" in said and "closed by remote host" in said)
            if (self.host in _reached or opened) and not denied:
                return Closed(last)
            return TargetError(
                f"{self.host} cannot be reached over ssh: {last}",
                expected="a login without a password prompt, to a host whose key is known",
                do=f"make this work first: ssh -o BatchMode=yes {self.host} true",
            )
        if "No module named" in said and "edgeship" in said:
            return TargetError(f"{self.host} has no edgeship for {self._target.python}", do=self._install())
        if "No module named" in said:
            return TargetError(f"{self.host} lacks a part of edgeship's light install: {last}", do=self._install())
        if code == 127:
            return TargetError(
                f"{self.host} has no {self._target.python}: {last}",
                expected="the interpreter that target.python names",
                do="set target.python to a Python that has edgeship's light install",
            )
        return TargetError(f"edgeship's agent on {self.host} ended with exit code {code}: {last}", do=self._install())

    def close(self) -> None:
        """End the connection. A trial that runs there goes on."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._drain.join(2.0)
        if not self._drain.is_alive() and self._process.stderr is not None:
            self._process.stderr.close()


def is_host(name: str) -> bool:
    """Whether a name is one that ssh takes for a host, and neither an option nor a command."""
    return bool(name) and not name.startswith("-") and not any(character.isspace() for character in name)


def _command(target: Target) -> list[str]:
    host = target.host or ""
    if not is_host(host):
        raise UserInputError(
            f"target.host is {host!r}",
            expected="a name that ssh takes, such as user@name",
            do="set target.host to what you type after ssh",
        )
    ssh = shutil.which("ssh")
    if ssh is None:
        raise MissingExtra("a target with a host", "ssh", "openssh-client")
    command = [ssh, "-T"]
    config = os.environ.get("EDGESHIP_SSH_CONFIG")
    if config:
        command += ["-F", str(Path(config).expanduser())]
    for option in OPTIONS:
        command += ["-o", option]
    remote = f"exec {_shell_path(target.python)} -m edgeship.targets.remote serve {shlex.quote(target.remote_dir)}"
    return [*command, "--", host, remote]


def _shell_path(python: str) -> str:
    """Quote a path for the device's shell; a leading ``~/`` is the user's home there."""
    if python.startswith("~/"):
        return f'"$HOME"/{shlex.quote(python[2:])}'
    return shlex.quote(python)
