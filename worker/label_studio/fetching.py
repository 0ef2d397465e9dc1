"""A task's image address -> the bytes of its file, bounded in size, time and reach.

Label Studio's own files are fetched through its client, which alone has the token and sends it nowhere else. Any other
address is resolved first and refused when it leads to a private network, so that a task cannot make the worker read
what only this machine can see (SSRF). Every redirect is checked in the same way. `data:` URIs hold their file.
"""

from __future__ import annotations

import ipaddress
import reprlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

import httpx

from plugin_config.addresses import scheme_of, shown, trimmed
from plugin_config.certificates import tls_trouble, trust
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
from worker.label_studio.data_uris import read_data_uri
from worker.label_studio.image_cache import OFF, ImageCache, Recalled
from worker.label_studio.images import ImageLimits, too_large
from worker.label_studio.refusals import (
    KINDS,
    Hop,
    is_web_page,
    left_to_nginx,
    other_name,
    private_remedy,
    refused,
    signed_out,
    stored_uri,
    unfetchable,
    web_page,
)

_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure_spi"}
_AGAIN = "Retrieve predictions of the task again."
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


def fetch_file(
    url: object, *, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits, cache: ImageCache = OFF
) -> bytes:
    """Fetch the file of a task's image, or take it from the cache where it is still the same.

    Raises:
        ImageUnavailable: bad address, not found, too large or private; the message names the task.
        ImageHostTrouble: its server is slow, down or in trouble: worth trying again.
        LabelStudioUnreachable, LabelStudioFailing: Label Studio serves the file, and cannot now.
    """
    subject = subject_of(task)
    text = trimmed(url) if isinstance(url, str) else ""
    if not text:
        remedy = "Check that the image's value in the labeling config names a key of the task's data."
        raise ImageUnavailable(subject, f"must be an address, got {reprlib.repr(url)}", remedy)
    if scheme_of(text) == "data":
        return read_data_uri(text, subject=subject, limits=limits)
    return _fetch(text, task, project, label_studio, limits, cache)


def subject_of(task: int) -> str:
    """Name the image of a task in errors."""
    return f"image of task {task}"


def _fetch(
    url: str, task: int, project: int, label_studio: LabelStudio, limits: ImageLimits, cache: ImageCache
) -> bytes:
    subject, deadline = subject_of(task), time.monotonic() + limits.timeout_s
    identity = (label_studio.url, project, url)
    recalled = cache.recall(*identity)
    try:
        address = _first_address(url, task, label_studio)
        stored = stored_uri(address) if label_studio.is_own(address) else ""
        for _ in range(_MOST_REDIRECTS + 1):
            hop = Hop(address, label_studio.is_own(address), stored)
            opened: AbstractContextManager[httpx.Response]
            conditions, lasting = recalled.conditions(address), False
            if hop.own:
                label_studio.check_file(address, task=task, project=project)
                lasting = label_studio.is_upload(address)
                if lasting and (kept := _read_recalled(recalled, subject, limits)) is not None:
                    return kept
                opened = closing(label_studio.stream(address, task=task, project=project, headers=conditions))
            else:
                opened = _open_foreign(hop, subject, label_studio.user_agent, limits, deadline, conditions)
            with opened as response:
                if response.status_code == 304 and conditions:
                    if (kept := _read_recalled(recalled, subject, limits)) is not None:
                        return kept
                    recalled = Recalled()  # it is damaged, and asked for without conditions
                    continue
                if redirect_location(response):
                    url = redirect_location(response)
                    address = label_studio.address(url, address.copy_with(query=None, fragment=None))
                    if label_studio.is_own(address) and address.path.rstrip("/").endswith("/user/login"):
                        raise signed_out(subject)
                    continue
                if response.status_code != 200:
                    raise refused(response, hop, subject)
                if hop.own and "x-accel-redirect" in response.headers:
                    raise left_to_nginx(subject)
                content = _read(response, subject, limits, deadline)
            if is_web_page(content):
                raise web_page(hop, subject)
            cache.keep(*identity, content=content, url=address, headers=response.headers, lasting=lasting)
            return content
    except (ValueError, httpx.InvalidURL) as error:
        problem = f"has no valid address, {shown(url)} ({str(error)[:200]})"
        raise ImageUnavailable(subject, problem, KINDS) from error
    raise ImageUnavailable(subject, f"is redirected more than {_MOST_REDIRECTS} times", "Correct the address.")


def _first_address(url: str, task: int, label_studio: LabelStudio) -> httpx.URL:
    """Where a task's trimmed address leads.

    Raises:
        ValueError: it is not valid.
        ImageUnavailable: it is under a scheme that is not fetched.
    """
    scheme = scheme_of(url)
    if scheme in _CLOUD_SCHEMES:
        url = label_studio.presigned_path(url, task=task)
    elif scheme not in ("", "http", "https"):
        raise unfetchable(scheme, url, subject_of(task))
    return label_studio.address(url)


@contextmanager
def _open_foreign(
    hop: Hop, subject: str, user_agent: str, limits: ImageLimits, deadline: float, conditions: Mapping[str, str]
) -> Iterator[httpx.Response]:
    """Open an address outside Label Studio. The connection goes to the very IP that was checked, so that a second DNS
    answer cannot lead elsewhere (DNS rebinding), and is checked again once it is established.
    """
    url = hop.url
    address = _public_address(hop, subject, limits)
    left = max(0.001, deadline - time.monotonic())
    try:
        with (
            httpx.Client(
                verify=trust(limits.ca_bundle), timeout=left, follow_redirects=False, trust_env=False,
                event_hooks={"response": [hide_location]},
            ) as client,
            _watched(left, hop, subject, limits) as trace,
            client.stream(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers={"Host": url.netloc.decode("ascii"), "User-Agent": user_agent, **UNCOMPRESSED, **conditions},
                extensions={"sni_hostname": url.raw_host.decode("ascii"), "trace": trace},
            ) as response,
        ):  # fmt: skip
            yield response
    except httpx.HTTPError as error:
        if time.monotonic() >= deadline:
            raise _too_slow(subject, limits) from error
        if trouble := tls_trouble(error):
            raise ImageHostTrouble(subject, f"cannot be fetched: its server {trouble[0]}", trouble[1]) from error
        remedy = other_name(url) or "Open the address in a browser from the worker's machine."
        problem = f"cannot be fetched ({type(error).__name__}: {str(error)[:200]})"
        raise ImageHostTrouble(subject, problem, remedy) from error


@contextmanager
def _watched(
    seconds: float, hop: Hop, subject: str, limits: ImageLimits
) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
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
                raise ImageUnavailable(subject, f"leads to a private address, {peer}", private_remedy(hop))

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


def _public_address(hop: Hop, subject: str, limits: ImageLimits) -> str:
    url = hop.url
    host = url.raw_host.decode("ascii")  # as the certificate and the Host header name it
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = other_name(url) or "Check the host name in the task's data."
        raise ImageHostTrouble(subject, f"is on a host that is not known, {host[:200]!r}", remedy) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not limits.allow_private and not all(is_public(address) for address in addresses):
        raise ImageUnavailable(subject, f"is on a private address, {host[:200]!r}", private_remedy(hop))
    return addresses[0]


def _read_recalled(recalled: Recalled, subject: str, limits: ImageLimits) -> bytes | None:
    if recalled.length > limits.most_bytes:
        raise too_large(subject, f"{recalled.length / 1e6:.0f} MB", limits)
    return recalled.read()


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
