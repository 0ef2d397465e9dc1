"""A small picture that test servers send, in place of Label Studio and of other hosts, and the limits it fits."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from tests.http_server import Answer, Asked, Server
from worker.label_studio.images import ImageLimits

LIMITS = ImageLimits(most_bytes=200_000, most_pixels=500_000, timeout_s=5.0, allow_private=False)
FREE = replace(LIMITS, allow_private=True)
TOKEN = "legacy0token0secret"


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _png()


def picture(asked: Asked) -> Answer:
    """The answer under every path."""
    return Answer(200, PICTURE, {"Content-Type": "image/png"})


def as_new(server: Server) -> Server:
    """A server that several tests share, as it was at first."""
    server.answer, server.asked = picture, []
    return server
