"""Contact sheet of the drawn world: every colour with every texture, and some scenes."""

from __future__ import annotations

import cv2
import numpy as np

from worker.lab.drawn_world.painting import Bytes
from worker.lab.drawn_world.scenes import draw_scene, random_scene
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES, Thing

_CELL = 104
_MARGIN = 96
_INK = (40, 40, 40)
_HELD_OUT = (220, 30, 30)


def draw_contact_sheet(seed: int) -> Bytes:
    """Draw the sheet, (H, W, 3) uint8 RGB: compositions on top (held-out ones framed red), scenes below."""
    swatches = _swatches(seed)
    scenes = np.concatenate([_scene_row(seed, row, swatches.shape[1]) for row in range(2)])
    note = _strip(
        swatches.shape[1],
        "framed red: colour and texture that training never shows together   (below: random scenes)",
    )
    return np.concatenate([swatches, note, scenes])


def _swatches(seed: int) -> Bytes:
    header = _strip(_MARGIN + _CELL * len(COLOURS), "")
    for column, colour in enumerate(COLOURS):
        _write(header, colour, (_MARGIN + column * _CELL + 28, 24))
    rows = [header]
    for row, texture in enumerate(TEXTURES):
        margin = np.full((_CELL, _MARGIN, 3), 255, dtype=np.uint8)
        _write(margin, texture, (6, _CELL // 2 + 4))
        cells = [margin, *(_swatch(seed, row, column, texture) for column in range(len(COLOURS)))]
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def _swatch(seed: int, row: int, column: int, texture: str) -> Bytes:
    thing = Thing(COLOURS[column], texture, SHAPES[(column + 2 * row) % len(SHAPES)])
    chances = (np.random.default_rng((seed, row, column, attempt)) for attempt in range(40))
    scenes = (draw_scene(rng, (_CELL, _CELL), [thing], unit=1.3 * _CELL) for rng in chances)
    whole = max(scenes, key=lambda scene: _clear_pixels(scene.instances))
    image = whole.image.copy()
    if thing.is_unseen_texture:
        cv2.rectangle(image, (1, 1), (_CELL - 2, _CELL - 2), _HELD_OUT, 3)
    return image


def _clear_pixels(instances: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> int:
    """Count the pixels of the thing; 0 when it touches the frame."""
    inside = int(np.count_nonzero(instances[6:-6, 6:-6]))
    return inside if inside == int(np.count_nonzero(instances)) else 0


def _scene_row(seed: int, row: int, width: int) -> Bytes:
    each = width // 4
    scenes = [
        random_scene(np.random.default_rng((seed, 99, row, k)), (each * 3 // 4, each), unit=each * 0.5, split="any")
        for k in range(4)
    ]
    return np.concatenate([scene.image for scene in scenes], axis=1)


def _strip(width: int, text: str) -> Bytes:
    strip = np.full((36, width, 3), 255, dtype=np.uint8)
    _write(strip, text, (8, 24))
    return strip


def _write(image: Bytes, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
