"""Fit the networks of `worker.segmentation.clicks.model`: `python -m worker.lab.evaluation.fit_clicks FILE`.

On drawn scenes that no protocol uses, and on photographs with instances where they are given. The second network is
fitted on guesses of the first, which also answers the earlier clicks of its prompts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from worker.lab.evaluation.click_examples import ClickExample, ReadyPicture, click_examples
from worker.lab.evaluation.click_things import Picture, drawn_pictures, predict, read_photographs
from worker.lab.evaluation.panoptic_scenes import FIT_SEED
from worker.segmentation.clicks.model import FIRST, SECOND, ClickModel, Layers
from worker.segmentation.clicks.scene import prepare
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

Arrays = NDArray[np.float32]

UNITS = 24
_LEAST_DEVIATION = 0.05
_BATCH, _RATE, _DECAY = 8, 6e-3, 1e-3
_CROSS_ENTROPY = 0.3  # weight beside 1 - IoU


class Network(nn.Module):
    """What `ClickModel` computes, to be trained; mean and deviation are those of some examples."""

    def __init__(self, examples: Sequence[ClickExample]) -> None:
        super().__init__()
        rows = np.concatenate([example.described for example in examples]).astype(np.float32)
        self.mean = torch.from_numpy(rows.mean(axis=0))
        self.deviation = torch.from_numpy(rows.std(axis=0) + np.float32(_LEAST_DEVIATION))
        sizes = (rows.shape[1], UNITS, UNITS, 1)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, described: Tensor) -> Tensor:
        """Logits (n,) of cells (n, f)."""
        values = (described - self.mean) / self.deviation
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        found: Tensor = self.layers[-1](values)[:, 0]
        return found

    def arrays(self) -> dict[str, Arrays]:
        """As `Layers.of` reads them."""
        found = {"mean": self.mean, "deviation": self.deviation}
        for number, layer in enumerate(self.layers):
            found |= {f"{name}{number}": values.detach() for name, values in layer.named_parameters()}
        return {name: np.ascontiguousarray(values.numpy()) for name, values in found.items()}


def loss_of(logits: Tensor, example: ClickExample) -> Tensor:
    """1 - soft IoU and a cross entropy in which errors weigh as much as they do in the IoU of a thing of this size."""
    truth, area = torch.from_numpy(example.truth), torch.from_numpy(example.area)
    inside, outside = (area * truth).sum() + 1, (area * (1 - truth)).sum()
    weight = area * (truth / inside + (1 - truth) / (inside * outside).sqrt())
    entropy = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight).sum()
    likely = logits.sigmoid()
    shared = (area * torch.minimum(likely, truth)).sum()
    union = (area * torch.maximum(likely, truth)).sum()
    return _CROSS_ENTROPY * entropy + 1 - shared / union


def fit(examples: Sequence[ClickExample], *, epochs: int, seed: int) -> Network:
    """Train a network; the same examples and seed give the same one."""
    torch.manual_seed(seed)
    network = Network(examples)
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    steps = epochs * -(-len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(examples))
        for start in range(0, len(order), _BATCH):
            batch = [examples[k] for k in order[start : start + _BATCH]]
            described = torch.from_numpy(np.concatenate([example.described for example in batch])).float()
            parts = network(described).split([len(example.truth) for example in batch])
            loss = torch.stack([loss_of(part, example) for part, example in zip(parts, batch, strict=True)]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network


def ready_pictures(segmenter: Segmenter, pictures: Iterable[Picture], *, photographs: bool) -> list[ReadyPicture]:
    """Prepare drawn scenes or photographs for clicks, zero-shot."""
    found = []
    for picture in pictures:
        scores, prediction = predict(segmenter, picture, None)
        found.append(ReadyPicture(picture, prepare(segmenter, scores), prediction, photographs))
    return found


def main(arguments: Sequence[str]) -> int:
    """Fit and write the weights. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.evaluation.fit_clicks", description=main.__doc__)
    parser.add_argument("file", type=Path, help="where the weights are written")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="sets with instances/")
    parser.add_argument("--part", default="train", help="of the sets (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=80, help="drawn scenes (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=500, help="of each set and round (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="of each round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the examples and the weights (default: %(default)s)")
    options = parser.parse_args(arguments)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    ready = [ready_pictures(segmenter, read_photographs(folder, options.part), photographs=True)
             for folder in options.photos]  # fmt: skip
    ready.append(ready_pictures(segmenter, drawn_pictures(options.scenes, seed=FIT_SEED), photographs=False))
    arrays: dict[str, Arrays] = {}
    model: ClickModel | None = None
    for look in (FIRST, SECOND):
        rng = np.random.default_rng((options.seed, len(arrays)))
        examples = [example for some in ready for example in click_examples(some, options.examples, rng, model)]
        found = fit(examples, epochs=options.epochs, seed=options.seed).arrays()
        model = ClickModel(Layers.of(found))
        arrays |= {look + name: values for name, values in found.items()}
        sys.stderr.write(f"{look} {len(examples)} examples\n")
    save_file(arrays, options.file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
