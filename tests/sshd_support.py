"""A real sshd on a loopback port, with keys and settings of its own, for the tests of SSH targets."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import edgeship

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Device:
    """A host called ``device`` for ssh, when ``EDGESHIP_SSH_CONFIG`` names ``config``."""

    folder: Path
    config: Path
    port: int
    process: subprocess.Popen[bytes]

    def connections(self) -> list[int]:
        """The sshd processes that serve a connection now."""
        return children(self.process.pid)

    def restart(self) -> None:
        """Stop and start the daemon, as a reboot does to the network."""
        self.stop()
        self.process = _start(self.folder / "sshd_config", self.port)

    def stop(self) -> None:
        """End the daemon and every connection."""
        for pid in self.connections():
            for inner in [*children(pid), pid]:
                _kill(inner)
        self.process.terminate()
        self.process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    """The direct children of a process, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@contextmanager
def device(folder: Path) -> Iterator[Device]:
    """Start the daemon, and stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copyfile(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\n"
        f'SetEnv "PYTHONPATH={Path(edgeship.__file__).parents[1]}"\n'
    )
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    config = folder / "ssh_config"
    config.write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  StrictHostKeyChecking yes\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    made = Device(folder, config, port, _start(folder / "sshd_config", port))
    try:
        yield made
    finally:
        made.stop()


def _start(config: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the daemon and return when it says that it listens; the limit is for a daemon that hangs."""
    path = config.parent / "sshd.log"
    with path.open("ab") as log:
        before = log.tell()
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if f"Server listening on 127.0.0.1 port {port}.".encode() in path.read_bytes()[before:]:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"sshd did not start: {path.read_text()}")
