"""A task's image address -> its decoded image, with bounds on the bytes and pixels that all threads hold at once.

Urgent images, which an annotator waits for, have room of their own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from plugin_config.errors import ImageTooLarge
from plugin_config.label_studio.client import LabelStudio
from worker.label_studio.fair_share import FairSlots
from worker.label_studio.fetching import fetch_file, subject_of
from worker.label_studio.image_cache import OFF, ImageCache
from worker.label_studio.images import ImageLimits, Picture, decode_picture

_SMALL_BYTES = 8_000_000  # a file that any thread may hold beside the others'; photographs have 3 to 6 MB
_LARGE_FILES, _LARGE_RESERVED = 4, 1  # held at once, and of these for urgent ones
_MOST_PIXELS, _PIXELS_RESERVED = 100_000_000, 16_000_000  # decoded at once, 400 MB; and in addition for urgent ones
_MOST_REMEMBERED = 1000


class PixelBudget:
    """Bounds the pixels being decoded, so that large images are decoded one by one. Thread-safe.

    Args:
        most: pixels at once; a single larger image is decoded alone.
        reserved: additional pixels for urgent images: a small one never waits for a large one that is not urgent.
    """

    def __init__(self, most: int = _MOST_PIXELS, *, reserved: int = _PIXELS_RESERVED) -> None:
        self._most, self._reserved = most, reserved
        self._held = 0
        self._urgent = 0
        self._waiting: OrderedDict[object, None] = OrderedDict()  # those that are not urgent, first come first served
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int, *, urgent: bool) -> Iterator[None]:
        """Wait until this many pixels may be decoded; they count until the `with` block ends."""
        with self._changed:
            if urgent:
                self._urgent += 1
                self._changed.wait_for(lambda: self._fits(pixels, self._most + self._reserved))
                self._urgent -= 1
            else:
                ticket = object()
                self._waiting[ticket] = None
                self._changed.wait_for(lambda: self._is_next(ticket) and self._fits(pixels, self._most))
                del self._waiting[ticket]
            self._held += pixels
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def _is_next(self, ticket: object) -> bool:
        return not self._urgent and next(iter(self._waiting)) is ticket

    def _fits(self, pixels: int, most: int) -> bool:
        return not self._held or self._held + pixels <= most


class ImageLoader:
    """Loads images within the limits. Thread-safe.

    A file of up to 8 MB is fetched at once. A larger one is fetched again when one of a few slots is free, of which no
    project gets more than its share; a project whose last file was large waits for a slot from the start.

    Args:
        limits: of one image.
        cache: of files.
    """

    def __init__(self, limits: ImageLimits, cache: ImageCache = OFF) -> None:
        self._limits, self._cache = limits, cache
        self._budget = PixelBudget(max(_MOST_PIXELS, limits.most_pixels))
        self._slots = FairSlots(_LARGE_FILES, reserved=_LARGE_RESERVED)
        self._changed = threading.Condition()
        self._large: OrderedDict[int, None] = OrderedDict()  # projects whose last file was large

    def load(self, url: object, *, task: int, project: int, label_studio: LabelStudio, urgent: bool) -> Picture:
        """Fetch and decode the image of a task.

        Raises:
            ImageUnavailable, ImageHostTrouble, LabelStudioError: as `fetch_file` and `decode_picture`.
        """
        fetch = partial(fetch_file, url, task=task, project=project, label_studio=label_studio, cache=self._cache)
        admit = partial(self._budget.reserve, urgent=urgent)
        if project not in self._large:
            try:
                content = fetch(limits=replace(self._limits, most_bytes=min(_SMALL_BYTES, self._limits.most_bytes)))
            except ImageTooLarge:
                if self._limits.most_bytes <= _SMALL_BYTES:
                    raise
            else:
                return decode_picture(content, subject=subject_of(task), limits=self._limits, admit=admit)
        with self._slot(project, urgent=urgent):
            content = fetch(limits=self._limits)
            self._remember(project, large=len(content) > _SMALL_BYTES)
            return decode_picture(content, subject=subject_of(task), limits=self._limits, admit=admit)

    @contextmanager
    def _slot(self, project: int, *, urgent: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._slots.available(project, urgent=urgent))
            self._slots.acquire(project, urgent=urgent)
        try:
            yield
        finally:
            with self._changed:
                self._slots.release(project, urgent=urgent)
                self._changed.notify_all()

    def _remember(self, project: int, *, large: bool) -> None:
        with self._changed:
            self._large.pop(project, None)
            if large:
                self._large[project] = None
                while len(self._large) > _MOST_REMEMBERED:
                    self._large.popitem(last=False)
