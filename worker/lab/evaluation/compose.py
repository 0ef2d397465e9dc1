"""Does a model compose? Held-out pairs of the drawn world against oracles that know one attribute perfectly.

A model that only knows colours passes any plain test of drawn masks. Here every target comes with a distractor of
its colour, one of its texture and one of its shape. The model is compared with oracles that receive the truth about one
attribute, pooled to the model's own patches and sent through the same mask stage: a model that beats them composes.
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
from worker.lab.drawn_world.batches import MAX_THINGS, patch_shares
from worker.lab.drawn_world.composition_trials import PAIRS, CompositionTrial, Pair, composition_trial
from worker.lab.drawn_world.scenes import Scene
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import zero_shot_logits
from worker.segmentation.metrics import Confusion, class_ious, confusion
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.text.encoder import TEMPLATES, TextEncoder

MEANING = "held-out pairs of the drawn world against oracles that know one attribute"
WORDS = {"colour": COLOURS, "texture": TEXTURES, "shape": SHAPES}
_ORACLES: Mapping[Pair, tuple[str, str]] = {
    "colour_texture": ("colour", "texture"),
    "colour_shape": ("colour", "shape"),
}
_ORACLE_SCALE = 10.0  # logit of a patch that one class covers completely
_SURE_SHARE = 0.6
_THINGS = 4  # of a trial


@dataclass
class SplitScores:
    """IoUs of one kind of held-out pair, trial by trial, of the model and of each oracle; all in [0, 1].

    Attributes:
        ious: of every label.
        target_ious: of the target's label alone.
    """

    ious: dict[str, list[float]] = field(default_factory=dict)
    target_ious: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, ious: Sequence[float], target: int) -> None:
        """Append the IoU of every label of a trial, as predicted by the model or by an oracle."""
        self.ious.setdefault(name, []).extend(ious)
        self.target_ious.setdefault(name, []).append(ious[target])


@dataclass
class CompositionFigures:
    """Everything a run counts.

    Attributes:
        splits: IoUs by kind of held-out pair.
        hits: by kind of word, whether each patch of a target was assigned the right word.
        confusion: of the model over all trials: the labels in the order of the things, then the background.
        templates: IoUs of each prompt template alone.
    """

    splits: dict[Pair, SplitScores] = field(default_factory=lambda: {pair: SplitScores() for pair in PAIRS})
    hits: dict[str, list[Tensor]] = field(default_factory=dict)
    confusion: Confusion = field(default_factory=lambda: np.zeros((_THINGS + 1, _THINGS + 1), dtype=np.int64))
    templates: dict[str, SplitScores] = field(default_factory=dict)

    def as_json(self, scenes: int) -> dict[str, object]:
        """Summarise under the keys that `zeromask evaluate` prints."""
        unseen = {pair: _split_json(scores, _ORACLES[pair]) for pair, scores in self.splits.items()}
        summary: dict[str, object] = {
            "unseen": unseen,
            "accuracy": {kind: _round(torch.cat(hits).float().mean().item()) for kind, hits in self.hits.items()},
            "background_iou": _round(class_ious(self.confusion)[-1]),
            "scenes": scenes,
        }
        if self.templates:
            means = {text: _round(np.mean(scores.ious["model"])) for text, scores in self.templates.items()}
            summary["templates"] = means
        return summary


class CompositionEvaluator:
    """Accumulates the figures of one model, trial by trial.

    Args:
        encoder: the model; trials are drawn at the size at which images enter it.
        templates: also score every prompt template alone.
    """

    def __init__(self, encoder: Encoder, *, templates: bool = False) -> None:
        self._encoder = encoder
        self._texts = TextEncoder(encoder)
        single = TEMPLATES if templates else ()
        self._single_templates = {text: TextEncoder(encoder, templates=(text,)) for text in single}
        self.figures = CompositionFigures()

    def add(self, trial: CompositionTrial, pair: Pair) -> None:
        """Run the model and the oracles of the pair on one trial."""
        embedding = self._encoder.embed_images([trial.scene.image])[0]
        shares = thing_shares(trial.scene, self._encoder.patch)
        scores = self.figures.splits[pair]
        predicted = self._masks(self._logits(embedding, trial.labels, self._texts), trial.scene)
        scores.add("model", label_ious(predicted, trial.scene), trial.target)
        for kind in _ORACLES[pair]:
            logits = oracle_logits(trial.scene, shares, kind)
            scores.add(kind, label_ious(self._masks(logits, trial.scene), trial.scene), trial.target)
        self.figures.confusion += scene_confusion(predicted, trial.scene)
        self._add_words(embedding, trial, pair, shares)
        for text, encoder in self._single_templates.items():
            ious = label_ious(self._masks(self._logits(embedding, trial.labels, encoder), trial.scene), trial.scene)
            self.figures.templates.setdefault(text, SplitScores()).add("model", ious, trial.target)

    def _add_words(self, embedding: ImageEmbedding, trial: CompositionTrial, pair: Pair, shares: Tensor) -> None:
        """Count whether the right word of a kind wins, on patches that the target mostly covers."""
        rows = shares[trial.target] >= _SURE_SHARE
        target = trial.scene.objects[trial.target]
        for kind in _ORACLES[pair]:
            words = WORDS[kind]
            labels = words if kind == "shape" else [f"{word} shape" for word in words]
            best = self._logits(embedding, labels, self._texts)[: len(words), rows].argmax(dim=0)
            self.figures.hits.setdefault(kind, []).append(best == words.index(getattr(target, kind)))

    def _logits(self, embedding: ImageEmbedding, labels: Sequence[str], texts: TextEncoder) -> Tensor:
        classes = texts.with_background([(label,) for label in labels])
        scale, bias = self._encoder.logit_scale, self._encoder.logit_bias
        return zero_shot_logits(embedding.features, classes, scale=scale, bias=bias).cpu()

    def _masks(self, logits: Tensor, scene: Scene) -> NDArray[np.int16]:
        """Apply the mask stage of the service, the same to model and oracles: (H, W) class of every pixel."""
        return pixel_classes(logits, (scene.image.shape[0], scene.image.shape[1]), scene.image)[0]


def thing_shares(scene: Scene, patch: int) -> Tensor:
    """Share of each patch that each thing covers, then all stuff: (n + 1, h, w) float32; `patch` in pixels."""
    height, width = scene.instances.shape
    shares = patch_shares(scene, patch).T.reshape(-1, height // patch, width // patch)
    stuff = shares[MAX_THINGS:].sum(axis=0, keepdims=True)
    return torch.from_numpy(np.concatenate([shares[: len(scene.objects)], stuff]))


def oracle_logits(scene: Scene, shares: Tensor, kind: str) -> Tensor:
    """Logits of an oracle that sees one attribute perfectly and nothing else, (n + 1, h, w) float32.

    Things that share the attribute are the same to it: each of their labels gets the pixels of all of them.
    """
    words = [getattr(thing, kind) for thing in scene.objects]
    alike = torch.tensor([[float(mine == other) for other in words] for mine in words])
    visible = torch.einsum("kn,nhw->khw", alike, shares[:-1])
    return _ORACLE_SCALE * torch.cat([visible, shares[-1:]])


def scene_confusion(classes: NDArray[np.int16], scene: Scene) -> Confusion:
    """Confusion of (H, W) predicted classes with a scene of n things: class k is thing k, class n is all stuff."""
    things = len(scene.objects)
    truth = np.where(scene.instances == 0, things, scene.instances - 1)
    return confusion(truth, classes, things + 1)


def label_ious(classes: NDArray[np.int16], scene: Scene) -> list[float]:
    """IoU of each thing with the pixels predicted as its label; `classes` (H, W) as in `scene_confusion`."""
    return [float(iou) for iou in class_ious(scene_confusion(classes, scene))[:-1]]


def trials(seed: int, count: int, short_side: int) -> Iterator[tuple[CompositionTrial, Pair]]:
    """Draw `count` trials, the two pairs alternating; trial k does not depend on the count."""
    for k in range(count):
        pair = PAIRS[k % len(PAIRS)]
        yield composition_trial(np.random.default_rng((seed, k)), pair, short_side=short_side), pair


def evaluate_composition(encoder: Encoder, *, scenes: int, seed: int, templates: bool = False) -> dict[str, object]:
    """Run `scenes` trials and return the figures as JSON values."""
    evaluator = CompositionEvaluator(encoder, templates=templates)
    console = Console(stderr=True)
    drawn = trials(seed, scenes, encoder.short_side)
    for trial, pair in track(drawn, "Evaluating", total=scenes, console=console, disable=not console.is_terminal):
        evaluator.add(trial, pair)
    return evaluator.figures.as_json(scenes)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=400, help="trials, half for each pair (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the drawn trials (default: %(default)s)")
    parser.add_argument("--templates", action="store_true", help="also score each prompt template alone")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Evaluate the model and print a table, or one JSON line with --json."""
    if options.scenes < len(PAIRS):
        raise SettingsError("--scenes", f"is {options.scenes}", f"Ask for at least {len(PAIRS)}, one for each pair.")
    encoder = Encoder.from_settings(settings)
    found = evaluate_composition(encoder, scenes=options.scenes, seed=options.seed, templates=options.templates)
    sys.stdout.write(json.dumps(found) + "\n" if options.json else table(found))
    return 0


def table(found: Mapping[str, object]) -> str:
    """Format the figures for a person."""
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


def _split_json(scores: SplitScores, oracles: tuple[str, str]) -> dict[str, object]:
    return {
        "miou": _round(np.mean(scores.ious["model"])),
        "oracles": {kind: _round(np.mean(scores.ious[kind])) for kind in oracles},
        "target_iou": _round(np.mean(scores.target_ious["model"])),
        "target_oracles": {kind: _round(np.mean(scores.target_ious[kind])) for kind in oracles},
    }


def _round(value: float | np.floating) -> float:
    return round(float(value), 4)
