"""Certificates of a CA of our own, for servers that show them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def terminating(context: ssl.SSLContext, path: str) -> Iterator[int]:
    """Take TLS connections on a port of this machine, and pass on what they carry to a socket, as stunnel does."""
    open_ones: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def start(*ends: socket.socket) -> None:
        threads.append(threading.Thread(target=pass_on, args=ends, daemon=True))
        threads[-1].start()

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):  # a client that does not like the certificate
                client, server = context.wrap_socket(plain, server_side=True), socket.socket(socket.AF_UNIX)
                open_ones.extend((client, server))
                server.connect(path)
                start(client, server)
                start(server, client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for end in open_ones:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(10)
            for end in open_ones:
                end.close()
