"""How a Dask cluster is reached, and what makes that safe."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeship.errors import MissingExtra, UserInputError


@dataclass(frozen=True)
class Access:
    """How a cluster is reached.

    Args:
        address: ``tls://host:port``; ``tcp://`` on this machine alone.
        ca: PEM of the authority that signed every certificate of the cluster.
        cert: PEM of this side's certificate.
        key: PEM of its key.
    """

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def require_safe(self) -> None:
        """Refuse an address over which others could run code here.

        Raises:
            UserInputError: Not encrypted and not this machine's own, or a certificate is not named or not there.
        """
        parts = urlsplit(self.address)
        if parts.scheme not in ("tls", "tcp") or not parts.hostname or parts.port is None:
            raise UserInputError(
                f"{self.address!r} is not the address of a scheduler", expected="tls://host:8786", do="fix --scheduler"
            )
        if parts.scheme == "tcp" and not _is_loopback(parts.hostname):
            raise UserInputError(
                f"{self.address} is not encrypted: whoever reaches that port runs code on every worker",
                expected="tls://, with a certificate for each side",
                do="start the scheduler with TLS and name --ca, --cert and --key",
            )
        if parts.scheme == "tls":
            files = {"--ca": self.ca, "--cert": self.cert, "--key": self.key}
            wrong = [f"{name} {path or 'is not given'}" for name, path in files.items() if not _there(path)]
            if wrong:
                raise UserInputError(
                    f"{self.address} needs three PEM files, and these are not there: {', '.join(wrong)}",
                    expected="the authority's certificate, one's own certificate and its key",
                    do="name them with --ca, --cert and --key, or in [scheduler]",
                )
            self._require_certificates()

    def _require_certificates(self) -> None:
        """Refuse files that hold no certificates, or a key of another one."""
        assert self.ca is not None and self.cert is not None
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        said = f"--ca {self.ca}"
        try:
            made.load_verify_locations(self.ca)
            said = f"--cert {self.cert} with --key {self.key}"
            made.load_cert_chain(self.cert, self.key, password="")  # asks nobody: an encrypted key is refused
        except (OSError, ValueError) as error:
            raise UserInputError(
                f"{said} cannot be used: {error.strerror if isinstance(error, OSError) else error}",
                expected="PEM files: the authority's certificate, and one's own certificate with its unencrypted key",
                do="name the files that were made for this cluster",
            ) from None

    def security(self) -> Any:
        """Dask's own form of it. Raises MissingExtra without distributed."""
        distributed = library()
        if self.ca is None:
            return None
        sides = ("client", "worker", "scheduler")
        named = {f"tls_{side}_{kind}": str(getattr(self, kind)) for side in sides for kind in ("cert", "key")}
        return distributed.Security(tls_ca_file=str(self.ca), require_encryption=True, **named)


def library() -> Any:
    """The package ``distributed``. Raises MissingExtra."""
    try:
        import distributed
    except ImportError:
        raise MissingExtra("a fleet", "distributed", "fleet") from None
    return distributed


def _there(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
