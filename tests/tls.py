"""Certificates of a CA of our own, for servers that show them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """A CA that nobody knows, and the file that makes it known."""

    ca: trustme.CA
    bundle: str

    def context(self, *names: str, age_days: int = 0, life_days: int = 365) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for these names."""
        since = datetime.now(UTC) - timedelta(days=age_days)
        leaf = self.ca.issue_cert(*names, not_before=since, not_after=since + timedelta(days=life_days))
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(found)
        return found


def authority(folder: Path, name: str = "ca") -> Authority:
    """Make a CA and write its PEM file."""
    ca = trustme.CA()
    path = folder / f"{name}.pem"
    ca.cert_pem.write_to_path(str(path))
    return Authority(ca, str(path))
