"""What a person is told about an image that is not fetched: by its address, by its server's answer, with the remedy."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

import httpx

from plugin_config.addresses import label_studio_prefix, shown
from plugin_config.errors import ImageHostBusy, ImageHostTrouble, ImageUnavailable
from plugin_config.label_studio.tokens import TOKEN_REMEDY

KINDS = (
    "Use http(s), a file uploaded to Label Studio, one of its cloud storages (s3, gs, azure-blob) or a data: URI; an"
    " address without scheme begins with /data/."
)
"""Which addresses are fetched, as a sentence for people."""

_HOST_AND_PORT = re.compile(r"[\w.-]+:[0-9]+(?:[/?#]|$)")
_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script)[\s>]", re.IGNORECASE)
_STORAGES = "Settings > Cloud Storage of the project"
_LOCAL_REMEDY = (
    "Start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."
)


@dataclass(frozen=True)
class Hop:
    """One address on the way to an image.

    Attributes:
        url: as it is requested.
        own: whether it is on Label Studio.
        stored: where in a cloud storage the image is, when Label Studio was asked for that; "" = it was not.
    """

    url: httpx.URL
    own: bool
    stored: str = ""


def stored_uri(url: httpx.URL) -> str:
    """The address in a cloud storage that a presign or resolve route of Label Studio is asked for; "" = none."""
    if not re.search(r"/(?:presign|resolve)/?$", url.path):
        return ""
    try:
        encoded = dict(parse_qsl(url.query.decode("ascii"))).get("fileuri", "")
        return base64.urlsafe_b64decode(encoded.encode("ascii")).decode()
    except ValueError:  # not in base64: Label Studio says what it makes of that
        return ""


def unfetchable(scheme: str, text: str, subject: str) -> ImageUnavailable:
    """The error for an address under a scheme that is not fetched."""
    if _HOST_AND_PORT.match(text):
        return ImageUnavailable(subject, f"has no scheme, {shown(text)}", "Write http:// or https:// before it.")
    if scheme == "file" or len(scheme) == 1:  # a drive of Windows
        remedy = f"Upload the file to Label Studio, or add its folder as a local storage under {_STORAGES}."
        return ImageUnavailable(subject, f"is a path on somebody's disk, {shown(text)}", remedy)
    if scheme == "blob":
        remedy = "Upload the file to Label Studio."
        return ImageUnavailable(subject, "has a blob: address, which only the browser that made it can read", remedy)
    return ImageUnavailable(subject, f"is under a scheme that is not fetched, {scheme[:30]}:", KINDS)


def other_name(url: httpx.URL) -> str:
    """The remedy for an address that looks like Label Studio's under another name; "" = it does not."""
    prefix = label_studio_prefix(url)
    if prefix is None:
        return ""
    name = f"{url.scheme}://{url.netloc.decode('ascii')}{prefix}"[:200]
    return (
        f"It looks like Label Studio's under another name. If it is, add {name} to LABEL_STUDIO_PUBLIC_URL; it is then"
        " fetched from LABEL_STUDIO_URL."
    )


def private_remedy(hop: Hop) -> str:
    """The remedy for an address on a private network."""
    if hint := other_name(hop.url):
        return hint
    if hop.stored:
        return (
            "It is where the storage sends browsers. If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1, or turn off"
            " pre-signed URLs in the storage's settings, so that Label Studio itself sends its files."
        )
    return "If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1."


def refused(response: httpx.Response, hop: Hop, subject: str) -> ImageUnavailable:
    """The error for an answer other than the file or a redirect."""
    status = response.status_code
    if hop.own:
        return _refused_by_label_studio(status, hop, subject)
    said = f"was answered with HTTP {status}"
    if status == 429 or status >= 500:
        wait = response.headers.get("retry-after", "")[:40]
        if status == 429 or wait:
            said += f" and told to wait ({wait})" if wait.isascii() and wait.isprintable() and wait else ""
            remedy = "Its host allows fewer requests: ask for the task again later."
            return ImageHostBusy(subject, said, remedy)
        return ImageHostTrouble(subject, said, other_name(hop.url) or "Look at its server.")
    if hint := other_name(hop.url):
        return ImageUnavailable(subject, said, hint)
    if hop.stored:
        remedy = f"Look at the credentials, the permissions and the clock of the storage under {_STORAGES}."
        return ImageUnavailable(subject, f"is refused by its storage (HTTP {status})", remedy)
    if status in (401, 403, 407):
        remedy = (
            "Open it in a browser that is not signed in. If it shows, its host refuses this program: set"
            " ZEROMASK_CONTACT; else upload the file to Label Studio."
        )
        return ImageUnavailable(subject, f"is refused by its host, {_host(hop)} (HTTP {status})", remedy)
    if status in (404, 410):
        return ImageUnavailable(subject, f"is not at its host, {_host(hop)} (HTTP {status})", "Correct its address.")
    return ImageUnavailable(subject, f"{said} by its host, {_host(hop)}", "Open the address in a browser.")


def signed_out(subject: str) -> ImageUnavailable:
    """The error for a redirect to Label Studio's sign-in page."""
    return ImageUnavailable(subject, "is redirected to Label Studio's sign-in page", TOKEN_REMEDY)


def left_to_nginx(subject: str) -> ImageUnavailable:
    """The error where Label Studio leaves a file to the web server before it, and the answer came without that one."""
    remedy = "Set LABEL_STUDIO_URL to Label Studio's nginx, not to the process behind it."
    return ImageUnavailable(subject, "is for Label Studio's nginx to send, which was not asked", remedy)


def is_web_page(content: bytes) -> bool:
    """Whether a file is HTML, whatever its server says it is."""
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    while start.startswith(b"<!--"):  # not in the expression, which would try every way to part many comments
        start = start.partition(b"-->")[2].lstrip()
    return _PAGE.match(start) is not None


def web_page(hop: Hop, subject: str) -> ImageUnavailable:
    """The error for a web page in place of an image."""
    remedy = other_name(hop.url) or (
        "Its host may ask for a sign-in, or the address is of a page that shows the image: use the image's own address."
    )
    if hop.own:
        remedy = "Check that LABEL_STUDIO_URL is Label Studio itself, and not a proxy that asks for a sign-in."
    return ImageUnavailable(subject, "is a web page, not an image", remedy)


def _refused_by_label_studio(status: int, hop: Hop, subject: str) -> ImageUnavailable:
    if status >= 500:
        remedy = "See Label Studio's log; it also answers so about an upload that was deleted."
        return ImageHostTrouble(subject, f"was answered with HTTP {status} by Label Studio", remedy)
    is_local = hop.url.path.rstrip("/").endswith("/data/local-files")
    if status == 403:
        seen = "Check that the user of LABEL_STUDIO_API_KEY may see the project."
        remedy = f"{_LOCAL_REMEDY} {seen}" if is_local else seen
        return ImageUnavailable(subject, f"is refused by Label Studio (HTTP {status})", remedy)
    if status == 404 and hop.stored:
        scheme, _, rest = hop.stored.partition("://")
        bucket = f"{scheme}://{rest.partition('/')[0]}"[:100]
        problem = f"is in a bucket that no storage of its project has, {bucket!r}"
        remedy = f"Add it under {_STORAGES}. If it is there, Label Studio's log tells why it cannot be read."
        return ImageUnavailable(subject, f"{problem} (HTTP {status})", remedy)
    if status == 424:
        remedy = f"Look at the credentials of the storage under {_STORAGES}, and whether the file is still there."
        return ImageUnavailable(subject, f"cannot be read from its storage by Label Studio (HTTP {status})", remedy)
    remedy = "Check that the file is still in Label Studio."
    if is_local:
        remedy = f"Check that the file is there, and that a local storage of its folder is under {_STORAGES}."
    return ImageUnavailable(subject, f"was answered with HTTP {status} by Label Studio", remedy)


def _host(hop: Hop) -> str:
    return hop.url.host[:100]
