"""A task's image address -> the bytes of its file, bounded in size, time and reach.

Label Studio's own files are fetched through its client, which alone has the token and gives it to nobody else. Any
other address is looked up first, and refused when it leads to a private network, so that a task cannot make the worker
read what only this machine can see. Every redirect is judged anew. It must not know what is in a file.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from plugin_config.addresses import read_address
from plugin_config.answers import AS_IT_IS, LongAnswer, PackedAnswer, parts_of, redirect_of, set_location_aside
from plugin_config.errors import ImageHostTrouble, ImageUnavailable
from plugin_config.label_studio.client import LabelStudio, Task
from worker.label_studio.images import ImageLimits, decode_image, too_large
from worker.label_studio.reach import is_public

_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure_spi"}
_AGAIN = "Retrieve predictions of the task again."
_PRIVATE_REMEDY = "If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1."
_MOST_REDIRECTS = 5


def fetch_image(
    url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits
) -> NDArray[np.uint8]:
    """Fetch and decode the image of a task.

    Returns:
        (H, W, 3) uint8 RGB, turned upright as its EXIF says: the frame Label Studio draws regions in.

    Raises:
        ImageUnavailable: bad address, not found, too large, private, or no image; the message names the task.
        ImageHostTrouble: its server is slow, down or in trouble: worth trying again.
        LabelStudioUnreachable, LabelStudioFailing: Label Studio serves the file, and cannot now.
    """
    content = fetch_file(url, task=task, project=project, label_studio=label_studio, limits=limits)
    return decode_image(content, subject=subject_of(task), limits=limits)


def fetch_file(url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    """Fetch the file of a task's image; errors as of `fetch_image`."""
    subject = subject_of(task)
    if not isinstance(url, str) or not url:
        remedy = "Check that the image's value in the labeling config names a key of the task's data."
        raise ImageUnavailable(subject, f"must be an address, got {url!r}", remedy)
    return _fetch(url, task, project, label_studio, limits)


def subject_of(task: int) -> str:
    """What errors about the image of a task are about."""
    return f"image of task {task}"


def address_in(task: Task, key: str) -> object:
    """What a task's data has for an image's address; nobody has looked at it yet.

    Raises:
        ImageUnavailable: the task's data could not be read.
    """
    if task.unreadable:
        raise ImageUnavailable(subject_of(task.id), f"is not known: {task.unreadable}", "Then ask for the task again.")
    return task.data.get(key)


def _fetch(url: str, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    subject, deadline = subject_of(task), time.monotonic() + limits.timeout_s
    try:
        if url.lstrip(" ").partition("://")[0].lower() in _CLOUD_SCHEMES:
            url = label_studio.presigned_path(url.strip(" "), task=task)
        address = label_studio.address(url)
        for _ in range(_MOST_REDIRECTS + 1):
            opened: AbstractContextManager[httpx.Response]
            if label_studio.is_own(address):
                opened = closing(label_studio.stream(address, task=task, project=project))
            else:
                opened = _open_foreign(address, subject, limits, deadline)
            with opened as response:
                if redirect_of(response):
                    url = redirect_of(response)
                    address = read_address(url, address.copy_with(query=None, fragment=None))
                    continue
                if response.status_code == 429 or response.status_code >= 500:
                    problem = f"was answered with HTTP {response.status_code}"
                    raise ImageHostTrouble(subject, problem, "Look at its server.")
                if response.status_code != 200:
                    remedy = "Check that the task's image exists and that the token's user may see it."
                    raise ImageUnavailable(subject, f"was answered with HTTP {response.status_code}", remedy)
                return _read(response, subject, limits, deadline)
    except (ValueError, httpx.InvalidURL) as error:
        remedy = "Use http(s), a file uploaded to Label Studio, or one of its cloud storages."
        raise ImageUnavailable(subject, f"has no valid address, {url[:200]!r} ({error})", remedy) from error
    raise ImageUnavailable(subject, f"is redirected more than {_MOST_REDIRECTS} times", "Correct the address.")


@contextmanager
def _open_foreign(url: httpx.URL, subject: str, limits: ImageLimits, deadline: float) -> Iterator[httpx.Response]:
    """Open an address outside Label Studio. The connection goes to the very IP that was checked, so that a name
    cannot lead elsewhere between the check and the call, and is checked again once it stands.
    """
    address = _public_address(url, subject, limits)
    left = max(0.001, deadline - time.monotonic())
    try:
        with (
            httpx.Client(
                verify=_certificates(), timeout=left, follow_redirects=False, trust_env=False,
                event_hooks={"response": [set_location_aside]},
            ) as client,
            _watched(left, subject, limits) as trace,
            client.stream(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers={"Host": url.netloc.decode("ascii"), **AS_IT_IS},
                extensions={"sni_hostname": url.raw_host.decode("ascii"), "trace": trace},
            ) as response,
        ):  # fmt: skip
            yield response
    except httpx.HTTPError as error:
        if time.monotonic() >= deadline:
            raise _too_slow(subject, limits) from error
        remedy = "Open the address in a browser from the worker's machine."
        raise ImageHostTrouble(subject, f"cannot be fetched ({type(error).__name__}: {error})", remedy) from error


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than many a picture, and httpx would read them for every hop."""
    return httpx.create_ssl_context(trust_env=False)


@contextmanager
def _watched(seconds: float, subject: str, limits: ImageLimits) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Yield an httpcore trace that refuses a connection which leads to a private network, and cuts it after `seconds`:
    httpx' own timeouts begin anew with every byte, so that a server which drips its headers would hold the worker for
    ever.
    """
    streams: list[Any] = []

    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            streams.append(info["return_value"])
            peer = str(streams[-1].get_extra_info("server_addr")[0])
            if not limits.allow_private and not is_public(peer):
                streams[-1].close()
                raise ImageUnavailable(subject, f"leads to a private address, {peer}", _PRIVATE_REMEDY)

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
    host = url.raw_host.decode("ascii")  # as the certificate and the Host header name it
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "Check the host name in the task's data."
        raise ImageHostTrouble(subject, f"is on a host that is not known, {host[:200]!r}", remedy) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not limits.allow_private and not all(is_public(address) for address in addresses):
        raise ImageUnavailable(subject, f"is on a private address, {host[:200]!r}", _PRIVATE_REMEDY)
    return addresses[0]


def _read(response: httpx.Response, subject: str, limits: ImageLimits, deadline: float) -> bytes:
    content = bytearray()
    try:
        for part in parts_of(response, limits.most_bytes):
            content += part
            if time.monotonic() > deadline:
                raise _too_slow(subject, limits)
    except LongAnswer as error:
        raise too_large(subject, f"over {error.length / 1e6:.0f} MB", limits) from error
    except PackedAnswer as error:
        remedy = "Let its server, or the storage the file was put into, send it as it is, without Content-Encoding."
        problem = f"is sent compressed ({error}), though it was asked for as it is"
        raise ImageUnavailable(subject, problem, remedy) from error
    except httpx.HTTPError as error:
        if time.monotonic() >= deadline:
            raise _too_slow(subject, limits) from error
        raise ImageHostTrouble(subject, f"broke off ({type(error).__name__})", _AGAIN) from error
    return bytes(content)


def _too_slow(subject: str, limits: ImageLimits) -> ImageHostTrouble:
    remedy = "Raise ZEROMASK_IMAGE_TIMEOUT_S when its server is that slow."
    return ImageHostTrouble(subject, f"did not arrive within {limits.timeout_s:g} s", remedy)
