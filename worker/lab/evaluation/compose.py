"""Does a model compose? Held-out pairs of the drawn world against oracles that know one attribute perfectly.

A model that only knows colours passes any plain test of drawn masks. Here every target stands beside a distractor of
its colour, one of its texture and one of its shape, and the figures stand beside those of oracles that are told the
truth about one attribute, pooled to the model's own patches and sent through the same mask stage: what is left between
them is composing. It must not know how the model was trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.drawn_world.lessons import MAX_THINGS, patch_shares
from worker.lab.drawn_world.scenes import Scene
from worker.lab.drawn_world.trials import PAIRS, Pair, Trial, trial
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import zero_shot_logits
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.text.encoder import TEMPLATES, TextEncoder

MEANING = "held-out pairs of the drawn world against oracles that know one attribute"
WORDS = {"colour": COLOURS, "texture": TEXTURES, "shape": SHAPES}
_ORACLES: Mapping[Pair, tuple[str, str]] = {
    "colour_texture": ("colour", "texture"),
    "colour_shape": ("colour", "shape"),
}
_ORACLE_SCALE = 10.0  # what a patch wholly of one class gets, in logits
_SURE_SHARE = 0.6


@dataclass
class Tally:
    """Scores of one split, collected trial by trial; all in [0, 1]."""

    ious: dict[str, list[float]] = field(default_factory=dict)
    target_ious: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, ious: Sequence[float], target: int) -> None:
        """Note the IoU of every label of a trial, as found by the model or an oracle."""
        self.ious.setdefault(who, []).extend(ious)
        self.target_ious.setdefault(who, []).append(ious[target])


@dataclass
class Figures:
    """Everything a run counts."""

    splits: dict[Pair, Tally] = field(default_factory=lambda: {pair: Tally() for pair in PAIRS})
    hits: dict[str, list[Tensor]] = field(default_factory=dict)
    background: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    templates: dict[str, Tally] = field(default_factory=dict)

    def as_json(self, scenes: int) -> dict[str, object]:
        """The figures under the keys `zeromask evaluate` prints."""
        unseen = {pair: _split_json(tally, _ORACLES[pair]) for pair, tally in self.splits.items()}
        found: dict[str, object] = {
            "unseen": unseen,
            "accuracy": {kind: _round(torch.cat(hits).float().mean().item()) for kind, hits in self.hits.items()},
            "background_iou": _round(self.background[0] / max(1, self.background[1])),
            "scenes": scenes,
        }
        if self.templates:
            found["templates"] = {text: _round(np.mean(tally.ious["model"])) for text, tally in self.templates.items()}
        return found


class Judge:
    """Holds a model and what it has answered so far.

    Args:
        encoder: the model; pictures are drawn at the size at which images enter it.
        templates: also score every prompt template alone.
    """

    def __init__(self, encoder: Encoder, *, templates: bool = False) -> None:
        self._encoder = encoder
        self._texts = TextEncoder(encoder)
        self._alone = {text: TextEncoder(encoder, templates=(text,)) for text in TEMPLATES} if templates else {}
        self.figures = Figures()

    def hear(self, asked: Trial, pair: Pair) -> None:
        """Put one trial to the model and to the oracles of its pair."""
        embedding = self._encoder.embed_images([asked.scene.image])[0]
        shares = thing_shares(asked.scene, self._encoder.patch)
        tally = self.figures.splits[pair]
        found = self._masks(self._logits(embedding, asked.labels, self._texts), asked.scene)
        tally.add("model", label_ious(found, asked.scene), asked.target)
        for kind in _ORACLES[pair]:
            logits = oracle_logits(asked.scene, shares, kind)
            tally.add(kind, label_ious(self._masks(logits, asked.scene), asked.scene), asked.target)
        truth, drawn = asked.scene.instances == 0, found == len(asked.labels)
        self.figures.background += [(truth & drawn).sum(), (truth | drawn).sum()]
        self._hear_words(embedding, asked, pair, shares)
        for text, encoder in self._alone.items():
            ious = label_ious(self._masks(self._logits(embedding, asked.labels, encoder), asked.scene), asked.scene)
            self.figures.templates.setdefault(text, Tally()).add("model", ious, asked.target)

    def _hear_words(self, embedding: ImageEmbedding, asked: Trial, pair: Pair, shares: Tensor) -> None:
        """Accuracy among all words of a kind, on patches that the target mostly covers."""
        rows = shares[asked.target] >= _SURE_SHARE
        target = asked.scene.objects[asked.target]
        for kind in _ORACLES[pair]:
            words = WORDS[kind]
            labels = words if kind == "shape" else [f"{word} shape" for word in words]
            guess = self._logits(embedding, labels, self._texts)[: len(words), rows].argmax(dim=0)
            self.figures.hits.setdefault(kind, []).append(guess == words.index(getattr(target, kind)))

    def _logits(self, embedding: ImageEmbedding, labels: Sequence[str], texts: TextEncoder) -> Tensor:
        classes = texts.with_background([(label,) for label in labels])
        scale, bias = self._encoder.logit_scale, self._encoder.logit_bias
        return zero_shot_logits(embedding.features, classes, scale=scale, bias=bias).cpu()

    def _masks(self, logits: Tensor, scene: Scene) -> NDArray[np.int16]:
        """The mask stage of the service, the same for model and oracles: (H, W) class of every pixel."""
        return pixel_classes(logits, (scene.image.shape[0], scene.image.shape[1]), scene.image)[0]


def thing_shares(scene: Scene, patch: int) -> Tensor:
    """Share of every patch that each thing covers, then all stuff: (n + 1, h, w) float32; `patch` pixels a side."""
    height, width = scene.instances.shape
    shares = patch_shares(scene, patch).T.reshape(-1, height // patch, width // patch)
    stuff = shares[MAX_THINGS:].sum(axis=0, keepdims=True)
    return torch.from_numpy(np.concatenate([shares[: len(scene.objects)], stuff]))


def oracle_logits(scene: Scene, shares: Tensor, kind: str) -> Tensor:
    """What someone would answer who sees one attribute perfectly and nothing else: (n + 1, h, w) float32 logits.

    Things of the same attribute are alike to the oracle: each of their labels gets all of them.
    """
    words = [getattr(thing, kind) for thing in scene.objects]
    alike = torch.tensor([[float(mine == other) for other in words] for mine in words])
    told = torch.einsum("kn,nhw->khw", alike, shares[:-1])
    return _ORACLE_SCALE * torch.cat([told, shares[-1:]])


def label_ious(classes: NDArray[np.int16], scene: Scene) -> list[float]:
    """IoU of each thing with the pixels given to its label; `classes` (H, W) counts labels in the order of things."""
    ious = []
    for k in range(len(scene.objects)):
        truth, found = scene.instances == k + 1, classes == k
        ious.append(float((truth & found).sum() / (truth | found).sum()))
    return ious


def trials(seed: int, count: int, short_side: int) -> Iterator[tuple[Trial, Pair]]:
    """`count` trials, the pairs taking turns; trial k is the same whatever the count."""
    for k in range(count):
        pair = PAIRS[k % len(PAIRS)]
        yield trial(np.random.default_rng((seed, k)), pair, short_side=short_side), pair


def judge_model(encoder: Encoder, *, scenes: int, seed: int, templates: bool = False) -> dict[str, object]:
    """Put `scenes` trials to a model and return the figures fit for JSON."""
    judge = Judge(encoder, templates=templates)
    console = Console(stderr=True)
    asked = trials(seed, scenes, encoder.short_side)
    for one, pair in track(asked, "judging", total=scenes, console=console, disable=not console.is_terminal):
        judge.hear(one, pair)
    return judge.figures.as_json(scenes)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Options of this protocol; defaults out of the settings."""
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=400, help="trials, half for each pair (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures (default: %(default)s)")
    parser.add_argument("--templates", action="store_true", help="also score each prompt template alone")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Judge the model and print a table, or one JSON line with --json."""
    if options.scenes < len(PAIRS):
        raise SettingsError("--scenes", f"is {options.scenes}", f"Ask for at least {len(PAIRS)}, one for each pair.")
    encoder = Encoder.from_settings(settings)
    found = judge_model(encoder, scenes=options.scenes, seed=options.seed, templates=options.templates)
    sys.stdout.write(json.dumps(found) + "\n" if options.json else table(found))
    return 0


def table(found: Mapping[str, object]) -> str:
    """The figures for a person."""
    lines = [f"{found['scenes']} scenes, held-out pairs, mIoU of the four labels (of the target alone)"]
    unseen: Mapping[str, Mapping[str, object]] = found["unseen"]  # type: ignore[assignment]
    for pair, split in unseen.items():
        lines.append(f"  {pair.replace('_', ' x '):<17} model {split['miou']:.3f} ({split['target_iou']:.3f})")
        oracles: Mapping[str, float] = split["oracles"]  # type: ignore[assignment]
        targets: Mapping[str, float] = split["target_oracles"]  # type: ignore[assignment]
        lines += [f"  {'':<17} knows {kind} only {miou:.3f} ({targets[kind]:.3f})" for kind, miou in oracles.items()]
    accuracy: Mapping[str, float] = found["accuracy"]  # type: ignore[assignment]
    lines.append("  accuracy of target patches: " + ", ".join(f"{kind} {hit:.3f}" for kind, hit in accuracy.items()))
    lines.append(f"  background IoU {found['background_iou']:.3f}")
    if "templates" in found:
        alone: Mapping[str, float] = found["templates"]  # type: ignore[assignment]
        lines += [f"  prompt {text!r} alone: mIoU {miou:.3f}" for text, miou in alone.items()]
    return "\n".join(lines) + "\n"


def _split_json(tally: Tally, oracles: tuple[str, str]) -> dict[str, object]:
    return {
        "miou": _round(np.mean(tally.ious["model"])),
        "oracles": {kind: _round(np.mean(tally.ious[kind])) for kind in oracles},
        "target_iou": _round(np.mean(tally.target_ious["model"])),
        "target_oracles": {kind: _round(np.mean(tally.target_ious[kind])) for kind in oracles},
    }


def _round(value: float | np.floating) -> float:
    return round(float(value), 4)
