"""What all threads fetch and decode at once is bounded, and urgent images have room of their own."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

import pytest

from plugin_config.errors import ImageTooLarge
from plugin_config.settings import Settings
from tests.test_images import PLAIN
from worker.label_studio import image_loader
from worker.label_studio.image_loader import ImageLoader, PixelBudget
from worker.label_studio.images import ImageLimits

PATIENCE_S = 30.0


class Decoder(threading.Thread):
    """Decodes this many pixels until `end` is set."""

    def __init__(self, budget: PixelBudget, pixels: int, *, urgent: bool = False) -> None:
        super().__init__(daemon=True)
        self.began, self.end = threading.Event(), threading.Event()
        self._budget, self._pixels, self._urgent = budget, pixels, urgent
        self.start()

    def run(self) -> None:
        with self._budget.reserve(self._pixels, urgent=self._urgent):
            self.began.set()
            self.end.wait(PATIENCE_S)


def test_large_pictures_are_decoded_one_by_one_and_small_ones_together() -> None:
    budget = PixelBudget(100, reserved=10)
    small = [Decoder(budget, 30) for _ in range(3)]
    assert all(decoder.began.wait(PATIENCE_S) for decoder in small)
    large = Decoder(budget, 400)  # a larger one than fits is decoded, alone
    assert not large.began.wait(0.1)
    for decoder in small:
        decoder.end.set()
    assert large.began.wait(PATIENCE_S)
    large.end.set()


def test_an_urgent_image_does_not_wait_for_large_ones() -> None:
    budget = PixelBudget(100, reserved=10)
    first, second = Decoder(budget, 100), None
    assert first.began.wait(PATIENCE_S)
    second = Decoder(budget, 100)
    opened = Decoder(budget, 8, urgent=True)
    assert opened.began.wait(PATIENCE_S)
    assert not second.began.is_set()
    for decoder in (first, opened, second):
        decoder.end.set()
    assert second.began.wait(PATIENCE_S)


def test_a_large_file_waits_for_a_slot_and_so_does_the_next_one_of_its_project(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fetch(
        url: object, *, task: int, project: int, label_studio: object, limits: ImageLimits, cache: object
    ) -> bytes:
        asked.append(limits.most_bytes)
        if len(PLAIN) > limits.most_bytes:
            raise ImageTooLarge(f"image of task {task}", "is too large", "Raise it.")
        return PLAIN

    monkeypatch.setattr(image_loader, "fetch_file", fetch)
    monkeypatch.setattr(image_loader, "_SMALL_BYTES", len(PLAIN) - 1)
    limits = replace(ImageLimits.from_settings(Settings()), most_bytes=1000)
    loader = ImageLoader(limits)
    here: dict[str, Any] = {"task": 1, "label_studio": cast("Any", None), "urgent": False}
    for _ in range(2):
        assert loader.load("x", project=1, **here).size == (24, 40)
    assert asked == [len(PLAIN) - 1, 1000, 1000]
    with pytest.raises(ImageTooLarge):
        ImageLoader(replace(limits, most_bytes=10)).load("x", project=1, **here)
