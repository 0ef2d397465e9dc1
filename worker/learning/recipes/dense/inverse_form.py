"""The shape loss of SAZS: how far a predicted boundary would have to be moved and scaled to lie on the true one.

After InverseForm (Borse et al., CVPR 2021): a small frozen network sees both boundaries of a tile and names the
transformation between them; the loss is its size. The released SAZS hands it a softmax over one channel, which is 1
everywhere, so that its term has no gradient; here it gets the sigmoid. The network here is trained on drawn edges
(`train_regressor`); its weights are shipped.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.segmentation.encoders.acceleration import one_thread

TILE = 32
"""Cells of a side of a tile."""

WEIGHTS = "inverse_form.safetensors"
"""File of the shipped weights, in this package; `python -m worker.lab.train_inverse_form` makes it."""

_MOST_SHIFT, _MOST_SCALING = 0.25, 0.25  # of half a tile's side; of the logarithm of the scale
_UNITS = 32
_BATCH, _RATE = 64, 2e-3
_LEAST_EDGES = 3  # cells of a tile: with fewer there is no shape to compare
_SMALLEST = 1e-8


class Regressor(nn.Module):
    """Two edge maps of a tile -> the transformation between them.

    Four numbers: shifts right and down, in half tiles, and the logarithms of the scales; all 0 for equal maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(2, 12, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 24, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.tell = nn.Sequential(nn.Linear(24 * (TILE // 8) ** 2, _UNITS), nn.ReLU(), nn.Linear(_UNITS, 4))

    def forward(self, pairs: Tensor) -> Tensor:
        """(N, 2, TILE, TILE) predicted and true edges in [0, 1] to (N, 4)."""
        # Antisymmetric: exchanged maps give the inverse, and equal ones exactly the identity.
        return self._half(pairs) - self._half(pairs.flip(1))

    def _half(self, pairs: Tensor) -> Tensor:
        return torch.as_tensor(self.tell(self.see(pairs).flatten(1)))


class InverseForm:
    """Holds a trained, frozen regressor and measures with it."""

    def __init__(self, regressor: Regressor) -> None:
        self._regressor = regressor.eval().requires_grad_(False)

    @staticmethod
    @lru_cache(maxsize=4)
    def shipped(device: torch.device) -> InverseForm:
        """The one whose weights are shipped, on a device."""
        with as_file(files(__package__) / WEIGHTS) as path:
            weights = {name: values.float() for name, values in load_file(path).items()}
        regressor = Regressor()
        regressor.load_state_dict(weights)
        return InverseForm(regressor.to(device))

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Mean length of the transformation over the tiles in which there is a true edge; 0 where there is none.

        Args:
            predicted: (B, 1, h, w) float32 boundary probabilities.
            true: (B, 1, h, w) float32 boundaries, 0 or 1.
        """
        tiles = torch.cat([_tiles(predicted), _tiles(true)], dim=1)
        tiles = tiles[tiles[:, 1].sum(dim=(1, 2)) >= _LEAST_EDGES]
        if not len(tiles):
            return predicted.sum() * 0
        lengths: Tensor = (self._regressor(tiles).square().sum(dim=1) + _SMALLEST).sqrt()
        return lengths.mean()


def _tiles(maps: Tensor) -> Tensor:
    """(B, 1, h, w) cut into (N, 1, TILE, TILE), the last row and column filled up with zeros."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (0, -width % TILE, 0, -height % TILE))
    return padded.unfold(2, TILE, TILE).unfold(3, TILE, TILE).reshape(-1, 1, TILE, TILE)


@one_thread()
def train_regressor(*, steps: int = 800, seed: int = 0) -> tuple[Regressor, float]:
    """Train a regressor on drawn edges; some 20 seconds on a CPU.

    Returns:
        It, and the mean distance of its answers from the truth in the last tenth of the steps.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    regressor = Regressor()
    optimizer = torch.optim.AdamW(regressor.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    errors = []
    for _ in range(steps):
        pairs, moves = drawn_pairs(rng, _BATCH)
        told = regressor(pairs)
        loss = F.smooth_l1_loss(told, moves, beta=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        errors.append(float((told - moves).detach().norm(dim=1).mean()))
    return regressor, float(np.mean(errors[-max(1, steps // 10) :]))


def drawn_pairs(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Draw outlines of ellipses and polygons, and the same moved and scaled, as soft as a network would predict them.

    Returns:
        (count, 2, TILE, TILE) float32 moved and true edges, and (count, 4) float32 transformations from true to moved.
    """
    moves = rng.uniform(-1, 1, (count, 4)) * (_MOST_SHIFT, _MOST_SHIFT, _MOST_SCALING, _MOST_SCALING)
    pairs = np.zeros((count, 2, TILE, TILE), dtype=np.float32)
    for number, move in enumerate(moves):
        outlines = [_outline(rng) for _ in range(int(rng.integers(1, 4)))]
        pairs[number, 1] = _drawn(outlines, np.zeros(4)) > 0
        soft = cv2.GaussianBlur(_drawn(outlines, move), (0, 0), float(rng.uniform(0.3, 1.0)))
        pairs[number, 0] = np.clip(soft * rng.uniform(0.6, 1.6) + rng.uniform(0, 0.2), 0, 1)
    return torch.from_numpy(pairs), torch.from_numpy(moves).float()


def _outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 2) points x, y of a closed line around the tile's middle, in half tiles."""
    if rng.random() < 0.5:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
    radius = rng.uniform(0.3, 0.9, 2)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + rng.uniform(-0.5, 0.5, 2)


def _drawn(outlines: list[NDArray[np.float64]], move: NDArray[np.float64]) -> NDArray[np.float32]:
    canvas = np.zeros((TILE, TILE), dtype=np.uint8)
    for points in outlines:
        moved = (points * np.exp(move[2:]) + move[:2] + 1) * TILE / 2 - 0.5
        cv2.polylines(canvas, [np.round(moved * 16).astype(np.int32)], True, 1, 2, shift=4)
    return canvas.astype(np.float32)
