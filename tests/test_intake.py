"""What all threads fetch and decode at once is bounded, and what is opened has room of its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

import pytest

from plugin_config.errors import ImageTooLarge
from plugin_config.settings import Settings
from tests.test_images import PLAIN
from worker.label_studio import intake
from worker.label_studio.images import ImageLimits
from worker.label_studio.intake import Intake, PixelGate

PATIENCE_S = 30.0


class Decoder(threading.Thread):
    """Decodes so many pixels until it is told to end."""

    def __init__(self, gate: PixelGate, pixels: int, *, urgent: bool = False) -> None:
        super().__init__(daemon=True)
        self.began, self.end = threading.Event(), threading.Event()
        self._gate, self._pixels, self._urgent = gate, pixels, urgent
        self.start()

    def run(self) -> None:
        with self._gate.room(self._pixels, urgent=self._urgent):
            self.began.set()
            self.end.wait(PATIENCE_S)


def test_large_pictures_are_decoded_one_by_one_and_small_ones_together() -> None:
    gate = PixelGate(100, reserved=10)
    small = [Decoder(gate, 30) for _ in range(3)]
    assert all(decoder.began.wait(PATIENCE_S) for decoder in small)
    large = Decoder(gate, 400)  # a larger one than fits is decoded, alone
    assert not large.began.wait(0.1)
    for decoder in small:
        decoder.end.set()
    assert large.began.wait(PATIENCE_S)
    large.end.set()


def test_an_opened_picture_does_not_wait_for_large_ones() -> None:
    gate = PixelGate(100, reserved=10)
    first, second = Decoder(gate, 100), None
    assert first.began.wait(PATIENCE_S)
    second = Decoder(gate, 100)
    opened = Decoder(gate, 8, urgent=True)
    assert opened.began.wait(PATIENCE_S)
    assert not second.began.is_set()
    for decoder in (first, opened, second):
        decoder.end.set()
    assert second.began.wait(PATIENCE_S)


def test_a_large_file_is_read_in_a_place_of_its_own_and_the_next_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fetch(url: object, *, task: int, project: int, label_studio: object, limits: ImageLimits) -> bytes:
        asked.append(limits.most_bytes)
        if len(PLAIN) > limits.most_bytes:
            raise ImageTooLarge(f"image of task {task}", "is too large", "Raise it.")
        return PLAIN

    monkeypatch.setattr(intake, "fetch_file", fetch)
    monkeypatch.setattr(intake, "_SMALL_BYTES", len(PLAIN) - 1)
    limits = replace(ImageLimits.from_settings(Settings()), most_bytes=1000)
    reader = Intake(limits)
    here: dict[str, Any] = {"task": 1, "label_studio": cast("Any", None), "urgent": False}
    for _ in range(2):
        assert reader.read("x", project=1, **here).size == (24, 40)
    assert asked == [len(PLAIN) - 1, 1000, 1000]
    with pytest.raises(ImageTooLarge):
        Intake(replace(limits, most_bytes=10)).read("x", project=1, **here)
