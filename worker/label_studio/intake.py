"""A task's image address -> its picture, with what all threads fetch and decode at once bounded in bytes and pixels.

What an annotator waits for has room of its own. It must not know queues or models.
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
from worker.label_studio.fetching import fetch_file, subject_of
from worker.label_studio.images import ImageLimits, Picture, decode_picture
from worker.label_studio.shares import Places

_SMALL_BYTES = 8_000_000  # a file that any thread may hold beside the others'; photographs have 3 to 6 MB
_LARGE_FILES, _LARGE_RESERVED = 4, 1  # held at once, and of these for what is opened
_MOST_PIXELS, _PIXELS_RESERVED = 100_000_000, 16_000_000  # decoded at once, 400 MB; and besides for what is opened
_MOST_REMEMBERED = 1000


class PixelGate:
    """Counts the pixels being decoded, so that large pictures are decoded one by one. Safe to share between threads.

    Args:
        most: pixels at once; a single larger picture is decoded alone.
        reserved: pixels besides, for what is urgent: no small picture that is opened waits for a large one.
    """

    def __init__(self, most: int = _MOST_PIXELS, *, reserved: int = _PIXELS_RESERVED) -> None:
        self._most, self._reserved = most, reserved
        self._held = 0
        self._urgent = 0
        self._waiting: OrderedDict[object, None] = OrderedDict()  # what is not urgent, as it came
        self._changed = threading.Condition()

    @contextmanager
    def room(self, pixels: int, *, urgent: bool) -> Iterator[None]:
        """Wait until so many pixels may be decoded; they count until the `with` block ends."""
        with self._changed:
            if urgent:
                self._urgent += 1
                self._changed.wait_for(lambda: self._fits(pixels, self._most + self._reserved))
                self._urgent -= 1
            else:
                turn = object()
                self._waiting[turn] = None
                self._changed.wait_for(lambda: self._is_next(turn) and self._fits(pixels, self._most))
                del self._waiting[turn]
            self._held += pixels
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def _is_next(self, turn: object) -> bool:
        return not self._urgent and next(iter(self._waiting)) is turn

    def _fits(self, pixels: int, most: int) -> bool:
        return not self._held or self._held + pixels <= most


class Intake:
    """Reads pictures within the limits, for several threads at once.

    A file of up to 8 MB is read by whoever comes. What proves larger is read again once one of a few places is free,
    of which no project gets more than its share; a project whose last file was large waits for one at once.

    Args:
        limits: of one picture.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._pixels = PixelGate(max(_MOST_PIXELS, limits.most_pixels))
        self._places = Places(_LARGE_FILES, reserved=_LARGE_RESERVED)
        self._changed = threading.Condition()
        self._large: OrderedDict[int, None] = OrderedDict()  # projects

    def read(self, url: object, *, task: int, project: int, label_studio: LabelStudio, urgent: bool) -> Picture:
        """The picture of a task.

        Raises:
            ImageUnavailable, ImageHostTrouble, LabelStudioError: as `fetch_file` and `decode_picture`.
        """
        fetch = partial(fetch_file, url, task=task, project=project, label_studio=label_studio)
        admit = partial(self._pixels.room, urgent=urgent)
        if project not in self._large:
            try:
                content = fetch(limits=replace(self._limits, most_bytes=min(_SMALL_BYTES, self._limits.most_bytes)))
            except ImageTooLarge:
                if self._limits.most_bytes <= _SMALL_BYTES:
                    raise
            else:
                return decode_picture(content, subject=subject_of(task), limits=self._limits, admit=admit)
        with self._large_file(project, urgent=urgent):
            content = fetch(limits=self._limits)
            self._remember(project, large=len(content) > _SMALL_BYTES)
            return decode_picture(content, subject=subject_of(task), limits=self._limits, admit=admit)

    @contextmanager
    def _large_file(self, project: int, *, urgent: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._places.free(project, urgent=urgent))
            self._places.take(project, urgent=urgent)
        try:
            yield
        finally:
            with self._changed:
                self._places.give_back(project, urgent=urgent)
                self._changed.notify_all()

    def _remember(self, project: int, *, large: bool) -> None:
        with self._changed:
            self._large.pop(project, None)
            if large:
                self._large[project] = None
                while len(self._large) > _MOST_REMEMBERED:
                    self._large.popitem(last=False)
