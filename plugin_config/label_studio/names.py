"""The names of one Label Studio: LABEL_STUDIO_URL, where requests go, and others that tasks may use for it.

An address under any of them is rewritten to LABEL_STUDIO_URL, so that no other name is ever sent a token.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

import httpx

from plugin_config.addresses import label_studio_prefix, origin_of, read_address
from plugin_config.errors import LabelStudioError

_LOOPBACK = "localhost"
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:7f00:1", "::ffff:127.0.0.1"})

Place = tuple[str, str, int]
"""Scheme, host and port of a Label Studio, with one spelling for all loopback names."""


@dataclass(frozen=True)
class LabelStudioNames:
    """Where a Label Studio is reached, and its other names.

    Attributes:
        root: LABEL_STUDIO_URL.
        below: its path, "" for none.
        others: of LABEL_STUDIO_PUBLIC_URL: places, and the path below which each has Label Studio; longest path first.
    """

    root: httpx.URL
    below: str
    others: tuple[tuple[Place, str], ...] = ()

    @classmethod
    def of(cls, root: httpx.URL, public_urls: str) -> LabelStudioNames:
        """The names of LABEL_STUDIO_URL and of the comma list LABEL_STUDIO_PUBLIC_URL.

        Raises:
            LabelStudioError: an entry of the list is no address.
        """
        others = []
        for text in public_urls.split(","):
            if not text.strip():
                continue
            try:
                url = read_address(text)
            except ValueError as error:  # without the address itself: it may hold a password
                subject = "public address of Label Studio"
                remedy = "Set LABEL_STUDIO_PUBLIC_URL to addresses with their scheme, https://labels.example.com."
                raise LabelStudioError(subject, f"is not an address: {error}", remedy) from error
            others.append((_place(url), _path(url).rstrip("/")))
        others.sort(key=lambda other: -len(other[1]))
        return cls(root, _path(root).rstrip("/"), tuple(others))

    def own(self, url: httpx.URL) -> httpx.URL | None:
        """Where requests for an address under one of the names go; None = it is not Label Studio's."""
        place, path = _place(url), url.raw_path.decode("ascii")
        if place == _place(self.root):
            return self._below(self._on_root(url, path))
        for other, prefix in self.others:
            if place == other and _is_below(path, prefix):
                return self._below(self.below + path[len(prefix) :])
        return None

    def _on_root(self, url: httpx.URL, path: str) -> str:
        """Tasks may be written for the path that a proxy shows, or for none, and `root` have another."""
        if _is_below(path, self.below) and self.below:
            return path
        for _, prefix in self.others:
            if prefix and _is_below(path, prefix):
                return self.below + path[len(prefix) :]
        return self.below + path if self.below and label_studio_prefix(url) == "" else path

    def _below(self, path: str) -> httpx.URL:
        return self.root.copy_with(raw_path=path.encode("ascii"), fragment=None)


def _is_below(path: str, prefix: str) -> bool:
    return not prefix or path.startswith(f"{prefix}/")


def _path(url: httpx.URL) -> str:
    return url.raw_path.decode("ascii").partition("?")[0]


def _place(url: httpx.URL) -> Place:
    scheme, host, port = origin_of(url)
    name = host.decode("ascii").lower().removesuffix(".")
    with suppress(ValueError):  # it may be a name
        name = str(ipaddress.ip_address(name))
    return scheme, _LOOPBACK if name in _THIS_MACHINE else name, port
