"""A task's image address -> its pixels, bounded in bytes, pixels, time and reach.

Label Studio's own files are fetched through its client. Any other address is looked up first, and refused when it
leads to a private network, so that a task cannot make the worker read what only this machine can see. It must not
know about models.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from plugin_config.errors import ImageUnavailable
from plugin_config.label_studio import LabelStudio
from plugin_config.settings import Settings

_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure_spi"}
_MOST_REDIRECTS = 5


@dataclass(frozen=True)
class ImageLimits:
    """How much an image may cost: bytes of the file, pixels decoded, seconds to fetch, and how far it may reach."""

    most_bytes: int
    most_pixels: int
    timeout_s: float
    allow_private: bool

    @classmethod
    def from_settings(cls, settings: Settings) -> ImageLimits:
        """The limits of the IMAGE settings."""
        return cls(
            settings.image_max_mb * 1_000_000,
            int(settings.image_max_megapixels * 1_000_000),
            settings.image_timeout_s,
            settings.allow_private_images,
        )


def fetch_image(url: object, *, task: int, label_studio: LabelStudio, limits: ImageLimits) -> NDArray[np.uint8]:
    """Fetch and decode the image of a task.

    Returns:
        (H, W, 3) uint8 RGB, turned upright as its EXIF says: the frame Label Studio draws regions in.

    Raises:
        ImageUnavailable: bad address, not found, too large, private, or no image; the message names the task.
        LabelStudioUnreachable: Label Studio serves the file and does not answer now.
    """
    subject = f"image of task {task}"
    if not isinstance(url, str) or not url:
        remedy = "Check that the image's value in the labeling config names a key of the task's data."
        raise ImageUnavailable(subject, f"must be an address, got {url!r}", remedy)
    return decode_image(_fetch(url, task, subject, label_studio, limits), subject=subject, limits=limits)


def read_image(path: Path, limits: ImageLimits) -> NDArray[np.uint8]:
    """Read an image file from disk: (H, W, 3) uint8 RGB, upright.

    Raises:
        ImageUnavailable: missing, too large or no image.
    """
    subject = f"image {path}"
    try:
        if path.stat().st_size > limits.most_bytes:
            raise _too_large(subject, f"{path.stat().st_size / 1e6:.0f} MB", limits)
        content = path.read_bytes()
    except OSError as error:
        raise ImageUnavailable(subject, f"cannot be read ({error.strerror})", "Check the path.") from error
    return decode_image(content, subject=subject, limits=limits)


def decode_image(content: bytes, *, subject: str, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode a file's bytes: (H, W, 3) uint8 RGB, upright. The size is checked before any pixel is decoded.

    Raises:
        ImageUnavailable: too many pixels, truncated, or in no format Pillow reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked next
            image = Image.open(io.BytesIO(content))
        if image.width * image.height > limits.most_pixels:
            raise _too_large(subject, f"{image.width} x {image.height} pixels", limits)
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        remedy = "Open it in a browser: when it shows there, convert it to PNG or JPEG; else import it again."
        raise ImageUnavailable(subject, f"is not a readable image ({error})", remedy) from error


def _fetch(url: str, task: int, subject: str, label_studio: LabelStudio, limits: ImageLimits) -> bytes:
    if urlsplit(url).scheme in _CLOUD_SCHEMES:
        url = label_studio.presigned_path(url, task=task)
    for _ in range(_MOST_REDIRECTS):
        if label_studio.is_own(url):
            opened = closing(label_studio.stream(url))
        elif urlsplit(url).scheme in ("http", "https"):
            opened = _open_foreign(url, subject, limits)  # type: ignore[assignment]
        else:
            remedy = "Use http(s), a file uploaded to Label Studio, or one of its cloud storages."
            raise ImageUnavailable(subject, f"has an address that cannot be fetched, {url[:200]!r}", remedy)
        with opened as response:
            if response.is_redirect:
                url = urljoin(str(response.request.url.copy_with(query=None)), response.headers["location"])
                continue
            if response.status_code != 200:
                remedy = "Check that the task's image exists and that the token's user may see it."
                raise ImageUnavailable(subject, f"was answered with HTTP {response.status_code}", remedy)
            return _read(response, subject, limits)
    raise ImageUnavailable(subject, f"is redirected more than {_MOST_REDIRECTS} times", "Correct the address.")


@contextmanager
def _open_foreign(url: str, subject: str, limits: ImageLimits) -> Iterator[httpx.Response]:
    """Open an address outside Label Studio. The connection goes to the very IP that was checked, so that a name
    cannot lead elsewhere between the check and the call.
    """
    parts = httpx.URL(url)
    address = _public_address(parts, subject, limits)
    try:
        with (
            httpx.Client(timeout=limits.timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET",
                parts.copy_with(host=address),
                headers={"Host": parts.netloc.decode()},
                extensions={"sni_hostname": parts.host},
            ) as response,
        ):
            response.request.url = parts  # relative redirects start from the name
            yield response
    except httpx.HTTPError as error:
        remedy = "Open the address in a browser from the worker's machine."
        raise ImageUnavailable(subject, f"cannot be fetched ({type(error).__name__}: {error})", remedy) from error


def _public_address(url: httpx.URL, subject: str, limits: ImageLimits) -> str:
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "Check the host name in the task's data."
        raise ImageUnavailable(subject, f"is on a host that is not known, {url.host!r}", remedy) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not limits.allow_private and not all(ipaddress.ip_address(a.partition("%")[0]).is_global for a in addresses):
        remedy = "If that is meant, set ZEROMASK_ALLOW_PRIVATE_IMAGES=1."
        raise ImageUnavailable(subject, f"is on a private address, {url.host!r}", remedy)
    return addresses[0]


def _read(response: httpx.Response, subject: str, limits: ImageLimits) -> bytes:
    content = bytearray()
    try:
        for part in response.iter_bytes():
            content += part
            if len(content) > limits.most_bytes:
                raise _too_large(subject, f"over {len(content) / 1e6:.0f} MB", limits)
    except httpx.HTTPError as error:
        raise ImageUnavailable(subject, f"broke off ({type(error).__name__})", "Try again with `retry`.") from error
    return bytes(content)


def _too_large(subject: str, found: str, limits: ImageLimits) -> ImageUnavailable:
    most = f"{limits.most_bytes / 1e6:.0f} MB and {limits.most_pixels / 1e6:.0f} megapixels"
    remedy = f"Allowed are {most}; raise ZEROMASK_IMAGE_MAX_MB or ZEROMASK_IMAGE_MAX_MEGAPIXELS."
    return ImageUnavailable(subject, f"is too large: {found}", remedy)
