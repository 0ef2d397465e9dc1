"""A task's image address -> the bytes of its file, bounded in size, time and reach.

Label Studio's own files are fetched through its client. Any other address is looked up first, and refused when it
leads to a private network, so that a task cannot make the worker read what only this machine can see. It must not
know what is in a file.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ImageHostTrouble, ImageUnavailable
from plugin_config.label_studio import LabelStudio
from worker.images import ImageLimits, decode_image, too_large

_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure_spi"}
_AGAIN = "Retrieve predictions of the task again."
_MOST_REDIRECTS = 5
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def fetch_image(
    url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits
) -> NDArray[np.uint8]:
    """Fetch and decode the image of a task.

    Returns:
        (H, W, 3) uint8 RGB, turned upright as its EXIF says: the frame Label Studio draws regions in.

    Raises:
        ImageUnavailable: bad address, not found, too large, private, or no image; the message names the task.
        ImageHostTrouble: its server is slow, down or in trouble: worth trying again.
        LabelStudioUnreachable: Label Studio serves the file and does not answer now.
    """
    content = fetch_file(url, task=task, project=project, label_studio=label_studio, limits=limits)
    return decode_image(content, subject=subject_of(task), limits=limits)


def fetch_file(url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    """Fetch the file of a task's image; errors as of `fetch_image`."""
    subject = subject_of(task)
    if not isinstance(url, str) or not url:
        remedy = "Check that the image's value in the labeling config names a key of the task's data."
        raise ImageUnavailable(subject, f"must be an address, got {url!r}", remedy)
    return _fetch(url, task, subject, label_studio, limits)


def subject_of(task: int) -> str:
    """What errors about the image of a task are about."""
    return f"image of task {task}"


def _fetch(url: str, task: int, subject: str, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    deadline = time.monotonic() + limits.timeout_s
    try:
        if urlsplit(url).scheme in _CLOUD_SCHEMES:
            url = label_studio.presigned_path(url, task=task)
        for _ in range(_MOST_REDIRECTS + 1):
            with _open(url, subject, label_studio, limits, deadline) as response:
                if response.has_redirect_location:
                    url = urljoin(str(response.request.url.copy_with(query=None)), response.headers["location"])
                    continue
                if response.status_code == 429 or response.status_code >= 500:
                    problem = f"was answered with HTTP {response.status_code}"
                    raise ImageHostTrouble(subject, problem, "Look at its server.")
                if response.status_code != 200:
                    remedy = "Check that the task's image exists and that the token's user may see it."
                    raise ImageUnavailable(subject, f"was answered with HTTP {response.status_code}", remedy)
                return _read(response, subject, limits, deadline)
    except (ValueError, httpx.InvalidURL) as error:
        raise ImageUnavailable(subject, f"has no valid address, {url[:200]!r} ({error})", "Correct it.") from error
    raise ImageUnavailable(subject, f"is redirected more than {_MOST_REDIRECTS} times", "Correct the address.")


def _open(
    url: str, subject: str, label_studio: LabelStudio, limits: ImageLimits, deadline: float
) -> AbstractContextManager[httpx.Response]:
    if label_studio.is_own(url):
        return closing(label_studio.stream(url))
    if urlsplit(url).scheme in ("http", "https"):
        return _open_foreign(url, subject, limits, deadline)
    remedy = "Use http(s), a file uploaded to Label Studio, or one of its cloud storages."
    raise ImageUnavailable(subject, f"has an address that cannot be fetched, {url[:200]!r}", remedy)


@contextmanager
def _open_foreign(url: str, subject: str, limits: ImageLimits, deadline: float) -> Iterator[httpx.Response]:
    """Open an address outside Label Studio. The connection goes to the very IP that was checked, so that a name
    cannot lead elsewhere between the check and the call.
    """
    parts = httpx.URL(url)
    address = _public_address(parts, subject, limits)
    left = max(0.001, deadline - time.monotonic())
    try:
        with (
            httpx.Client(timeout=left, follow_redirects=False, trust_env=False) as client,
            _cut_off(left) as trace,
            client.stream(
                "GET",
                parts.copy_with(host=address),
                headers={"Host": parts.netloc.decode()},
                extensions={"sni_hostname": parts.host, "trace": trace},
            ) as response,
        ):
            response.request.url = parts  # relative redirects start from the name
            yield response
    except httpx.HTTPError as error:
        if time.monotonic() >= deadline:
            raise _too_slow(subject, limits) from error
        remedy = "Open the address in a browser from the worker's machine."
        raise ImageHostTrouble(subject, f"cannot be fetched ({type(error).__name__}: {error})", remedy) from error


@contextmanager
def _cut_off(seconds: float) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Yield an httpcore trace that cuts its connection after `seconds`: httpx' own timeouts begin anew with every
    byte, so that a server which drips its headers would hold the worker for ever.
    """
    streams: list[Any] = []

    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            streams.append(info["return_value"])

    def cut() -> None:
        for stream in streams[-1:]:
            with suppress(OSError):  # it may have ended just now
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield trace
    finally:
        timer.cancel()


def _public_address(url: httpx.URL, subject: str, limits: ImageLimits) -> str:
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "Check the host name in the task's data."
        raise ImageHostTrouble(subject, f"is on a host that is not known, {url.host!r}", remedy) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not limits.allow_private and not all(_is_public(address) for address in addresses):
        remedy = "If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1."
        raise ImageUnavailable(subject, f"is on a private address, {url.host!r}", remedy)
    return addresses[0]


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):  # the ways to write an IPv4 address as an IPv6 one
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


def _read(response: httpx.Response, subject: str, limits: ImageLimits, deadline: float) -> bytes:
    content = bytearray()
    try:
        for part in response.iter_bytes():
            content += part
            if len(content) > limits.most_bytes:
                raise too_large(subject, f"over {len(content) / 1e6:.0f} MB", limits)
            if time.monotonic() > deadline:
                raise _too_slow(subject, limits)
    except httpx.HTTPError as error:
        if time.monotonic() >= deadline:
            raise _too_slow(subject, limits) from error
        raise ImageHostTrouble(subject, f"broke off ({type(error).__name__})", _AGAIN) from error
    return bytes(content)


def _too_slow(subject: str, limits: ImageLimits) -> ImageHostTrouble:
    remedy = "Raise ZEROMASK_IMAGE_TIMEOUT_S when its server is that slow."
    return ImageHostTrouble(subject, f"did not arrive within {limits.timeout_s:g} s", remedy)
