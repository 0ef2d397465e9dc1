"""Reading HTTP responses as they come over the wire: never more bytes than allowed, and redirects unparsed.

httpx decompresses a body, several times over, before anyone can count: a few kilobytes become gigabytes. So nothing is
decompressed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx

UNCOMPRESSED: Mapping[str, str] = {"Accept-Encoding": "identity"}
"""Header of a request whose response is read here."""

# Codings that compress. Others, such as the `aws-chunked` some object stores leave behind, change no byte.
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_REDIRECTS = (301, 302, 303, 307, 308)


class CompressedResponse(Exception):
    """The response is compressed though an uncompressed one was requested. `str()` names the coding."""


class ResponseTooLong(Exception):
    """The response is longer than allowed.

    Args:
        length: what is known of its length, bytes.
    """

    def __init__(self, length: int) -> None:
        super().__init__(f"{length} bytes")
        self.length = length


def hide_location(response: httpx.Response) -> None:
    """Move the `Location` header out of httpx's sight, for `redirect_location`. An event hook of clients.

    httpx parses the header even where it follows no redirect, and its errors look like a broken connection.
    """
    response.extensions["location"] = response.headers.pop("location", "")


def redirect_location(response: httpx.Response) -> str:
    """Where a response redirects to, as its server wrote it; "" = it is no redirect. The client has `hide_location`."""
    return str(response.extensions["location"]) if response.status_code in _REDIRECTS else ""


def body_chunks(response: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    """Yield the body of a response as it arrives.

    Raises:
        CompressedResponse: it is compressed; nothing of it was read.
        ResponseTooLong: it is longer than `most_bytes`, by its header or by what has arrived.
        httpx.TransportError: it broke off.
    """
    codings = {coding.strip().lower() for coding in response.headers.get("content-encoding", "").split(",")}
    if codings & _COMPRESSED:
        raise CompressedResponse(", ".join(sorted(codings & _COMPRESSED)))
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most_bytes:
        raise ResponseTooLong(int(announced[:20]))
    received = 0
    for chunk in response.iter_raw():
        received += len(chunk)
        if received > most_bytes:
            raise ResponseTooLong(received)
        yield chunk
