"""`data:` URIs -> the bytes of the file in them, as browsers decode them (https://fetch.spec.whatwg.org/#data-urls)."""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from plugin_config.errors import ImageUnavailable
from worker.label_studio.images import ImageLimits, too_large

_WHITE_SPACE = b" \t\n\f\r"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE64 = re.compile(r"; *base64$", re.IGNORECASE)
_LONGEST_MARK = 64  # characters before the comma in which ";base64" is looked for
_PART = 1 << 20  # decoded at a time: a list of all escapes of a large file would take twelve times its memory
_REMEDY = "Write it as data:image/png;base64,... in plain base64, or upload the file to Label Studio."


def read_data_uri(text: str, *, subject: str, limits: ImageLimits) -> bytes:
    """Decode the file in a `data:` URI. Its media type is ignored: as in browsers, the bytes tell what they are.

    Args:
        text: the trimmed URI.
        subject: names the image in errors, which never quote the URI.
        limits: for images; the length is checked before anything is decoded.

    Raises:
        ImageTooLarge: more bytes than allowed.
        ImageUnavailable: no comma in it, no base64 where it says so, or nothing.
    """
    header, comma, body = text.partition("#")[0].partition(":")[2].partition(",")
    if not comma:
        raise _broken(subject, "it has no comma before its data")
    packed = bool(_BASE64.search(header[-_LONGEST_MARK:].strip(_WHITE_SPACE.decode())))
    content = body.encode("utf-8", "replace")
    least = len(content) - 2 * content.count(b"%")
    if packed:
        least = (least - content.count(b" ")) * 3 // 4 - 2
    if least > limits.most_bytes:
        raise too_large(subject, f"{least / 1e6:.1f} MB", limits)
    content = _percent_decoded(content)
    if packed:
        content = _from_base64(content, subject)
    if len(content) > limits.most_bytes:
        raise too_large(subject, f"{len(content) / 1e6:.1f} MB", limits)
    if not content:
        raise _broken(subject, "there is nothing in it")
    return content


def _percent_decoded(content: bytes) -> bytes:
    if b"%" not in content:
        return content
    decoded, start = bytearray(), 0
    while start < len(content):
        end = start + _PART
        escape = content.rfind(b"%", max(start + 1, end - 2), end)  # one that the cut would go through
        end = escape if escape > 0 else end
        decoded += unquote_to_bytes(content[start:end])
        start = end
    return bytes(decoded)


def _from_base64(content: bytes, subject: str) -> bytes:
    """Decode as https://infra.spec.whatwg.org/#forgiving-base64-decode does."""
    content = content.translate(None, _WHITE_SPACE)
    if len(content) % 4 == 0:
        content = content[:-1].removesuffix(b"=") if content.endswith(b"=") else content
    strange = content.translate(None, _ALPHABET)
    if strange and not strange.strip(b"-_"):
        raise _broken(subject, "it is in the url-safe alphabet, which browsers do not read")
    if strange:
        raise _broken(subject, "it holds signs that are no base64")
    if len(content) % 4 == 1:
        raise _broken(subject, "its base64 is cut off")
    return binascii.a2b_base64(content + b"=" * (-len(content) % 4))


def _broken(subject: str, why: str) -> ImageUnavailable:
    return ImageUnavailable(subject, f"is a data: URI that cannot be decoded: {why}", _REMEDY)
