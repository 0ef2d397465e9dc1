"""An HTTP answer as it comes over the wire: its bytes, never more than allowed, and where it leads.

httpx unpacks what says it is compressed, several times over, before anyone can count: a few kilobytes become gigabytes.
So nothing is unpacked here. It must not know what is in an answer, nor which address may be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx

AS_IT_IS: Mapping[str, str] = {"Accept-Encoding": "identity"}
"""Header of a request whose answer is read here."""

# Codings that compress. Others, such as the `aws-chunked` some object stores leave behind, change no byte.
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"})


_REDIRECTS = (301, 302, 303, 307, 308)


def set_location_aside(response: httpx.Response) -> None:
    """Event hook of a client: takes the `Location` header away before httpx parses it, which it does even where it
    follows no redirect, and whose complaints look like a broken connection. `redirect_of` has it then.
    """
    response.extensions["location"] = response.headers.pop("location", "")


def redirect_of(response: httpx.Response) -> str:
    """Where an answer of a client with `set_location_aside` leads, as its server wrote it; "" = it is no redirect."""
    return str(response.extensions["location"]) if response.status_code in _REDIRECTS else ""


class PackedAnswer(Exception):
    """The answer is compressed though it was asked for as it is. `str()` names the coding."""


class LongAnswer(Exception):
    """The answer is longer than allowed. `length` is what is known of its length, bytes."""

    def __init__(self, length: int) -> None:
        super().__init__(f"{length} bytes")
        self.length = length


def parts_of(response: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    """The parts of an answer's body as they arrive.

    Raises:
        PackedAnswer: it is compressed; nothing of it was read.
        LongAnswer: it is longer than `most_bytes`, by its own word or by what has come.
        httpx.TransportError: it broke off.
    """
    codings = {coding.strip().lower() for coding in response.headers.get("content-encoding", "").split(",")}
    if codings & _COMPRESSED:
        raise PackedAnswer(", ".join(sorted(codings & _COMPRESSED)))
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most_bytes:
        raise LongAnswer(int(announced[:20]))
    come = 0
    for part in response.iter_raw():
        come += len(part)
        if come > most_bytes:
            raise LongAnswer(come)
        yield part
