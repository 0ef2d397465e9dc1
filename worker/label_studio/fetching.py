"""A task's image address -> the bytes of its file, bounded in size, time and reach.

Label Studio's own files are fetched through its client, which alone has the token and sends it nowhere else. Any other
address is resolved first and refused when it leads to a private network, so that a task cannot make the worker read
what only this machine can see (SSRF). Every redirect is checked in the same way.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from typing import Any

import httpx

from plugin_config.addresses import read_address
from plugin_config.errors import ImageHostTrouble, ImageUnavailable
from plugin_config.http_responses import (
    UNCOMPRESSED,
    CompressedResponse,
    ResponseTooLong,
    body_chunks,
    hide_location,
    redirect_location,
)
from plugin_config.label_studio.client import LabelStudio
from worker.label_studio.images import ImageLimits, too_large

_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure_spi"}
_AGAIN = "Retrieve predictions of the task again."
_PRIVATE_REMEDY = "If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1."
_MOST_REDIRECTS = 5
_V4_NOT_PUBLIC = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # private use
        "100.64.0.0/10",  # shared by carriers; some clouds keep their metadata there
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's own services for the machine; public by the registry, not by what is there
        "169.254.0.0/16",  # link local; most clouds keep their metadata there
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, limited broadcast
    )
)  # fmt: skip
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out as global unicast
_V6_NOT_PUBLIC = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4, which wraps IPv4
    )
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def fetch_file(url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    """Fetch the file of a task's image.

    Raises:
        ImageUnavailable: bad address, not found, too large or private; the message names the task.
        ImageHostTrouble: its server is slow, down or in trouble: worth trying again.
        LabelStudioUnreachable, LabelStudioFailing: Label Studio serves the file, and cannot now.
    """
    subject = subject_of(task)
    if not isinstance(url, str) or not url:
        remedy = "Check that the image's value in the labeling config names a key of the task's data."
        raise ImageUnavailable(subject, f"must be an address, got {url!r}", remedy)
    return _fetch(url, task, project, label_studio, limits)


def subject_of(task: int) -> str:
    """Name the image of a task in errors."""
    return f"image of task {task}"


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
                if redirect_location(response):
                    url = redirect_location(response)
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
    """Open an address outside Label Studio. The connection goes to the very IP that was checked, so that a second DNS
    answer cannot lead elsewhere (DNS rebinding), and is checked again once it is established.
    """
    address = _public_address(url, subject, limits)
    left = max(0.001, deadline - time.monotonic())
    try:
        with (
            httpx.Client(
                verify=_certificates(), timeout=left, follow_redirects=False, trust_env=False,
                event_hooks={"response": [hide_location]},
            ) as client,
            _watched(left, subject, limits) as trace,
            client.stream(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers={"Host": url.netloc.decode("ascii"), **UNCOMPRESSED},
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
    """Read the certificates once: it takes longer than many an image, and httpx would read them for every request."""
    return httpx.create_ssl_context(trust_env=False)


@contextmanager
def _watched(seconds: float, subject: str, limits: ImageLimits) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Yield an httpcore trace that refuses a connection to a private network, and shuts it down after `seconds`: httpx'
    own timeouts restart with every byte, so a server that sends its headers byte by byte would hold the worker.
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
            with suppress(OSError):  # it may be closed already
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
        for part in body_chunks(response, limits.most_bytes):
            content += part
            if time.monotonic() > deadline:
                raise _too_slow(subject, limits)
    except ResponseTooLong as error:
        raise too_large(subject, f"over {error.length / 1e6:.0f} MB", limits) from error
    except CompressedResponse as error:
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


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver or a socket gives it, lies on the public internet.

    By IANA's registries of special-purpose IPv4 and IPv6 addresses (iana-ipv4-special-registry,
    iana-ipv6-special-registry) and of IPv6 global unicast assignments, as of 2026, and by Python's `is_global`, which
    may know later ones. IPv6 is judged from the other side: only what was given out for global unicast is public, so
    that every way to wrap an IPv4 address (`::127.0.0.1`, `::ffff:0:127.0.0.1`, 64:ff9b:1::/48), site-local and unique
    local addresses and multicast are out without being listed. Two wraps are in daily use and judged by what is in
    them: IPv4-mapped, and NAT64's 64:ff9b::/96. No library was found that knows these and is not tied to another HTTP
    client: `netaddr` 1.3 takes fec0::/10 and multicast for global.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found in _V6_UNICAST and found.is_global and not any(found in block for block in _V6_NOT_PUBLIC)
        found = inner
    return found.is_global and not any(found in block for block in _V4_NOT_PUBLIC)
