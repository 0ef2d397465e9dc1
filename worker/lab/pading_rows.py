"""The rows of PADing on drawn things: what of its design, and what without it, finds labels nobody has drawn.

All rows go through the one assembly. All but two judge the same proposals of the same decoder and differ in the
classifier alone; `training_free` has no proposals, and `oracle_proposals` has true masks in their place.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from plugin_config.errors import LearningError, ModelUnavailable
from plugin_config.settings import Settings
from worker.lab.dense_data import SCENES
from worker.lab.evaluation.things import ThingsEvaluator
from worker.lab.things_data import PanopticSet, segmented_images, things_set
from worker.learning.generator.baselines import train_projection, without_unseen
from worker.learning.generator.vectors import RealVectors
from worker.learning.proposals.decoder_files import load_query_decoder
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.learning.recipes.pading.recipe import ALIGNMENT, DISENTANGLING, PRIMITIVES, PadingRecipe, known_words
from worker.learning.recipes.pading.vectors import real_vectors
from worker.segmentation.segmenter import Segmenter

THINGS_SPLIT = "things"
"""What the drawn things are called among the splits."""

STORED_DECODER = Path(__file__).with_name("query_decoder.safetensors")
"""The query decoder that the rows are measured with; docs/research/pading.md has the command that trained it."""

TRAINING_FREE, SEEN_ONLY, PROJECTION, ORACLE = "training_free", "seen_only", "projection", "oracle_proposals"
FULL = DISENTANGLING
PER_LABEL = "per_label"
_PER_LABEL_CLASSIFICATION = 0.1  # weight of that loss, a hundred times the released one
STRUCTURE = (1e-4, 1e-3, 1e-2)
"""The weight of disentangling and alignment together: the released one of panoptic, that of the others, and ten times
that. The first is the row of the full model."""

_WITHOUT: Mapping[str, tuple[str, ...]] = {
    "gmmn": (PRIMITIVES, ALIGNMENT, DISENTANGLING), "primitives": (ALIGNMENT, DISENTANGLING),
    "alignment": (DISENTANGLING,), FULL: (),
}  # fmt: skip


def swept(weight: float) -> str:
    """Name of the row of a weight."""
    return FULL if weight == STRUCTURE[0] else f"{FULL}, weight {weight:g}"


_FIRST_HALF = (TRAINING_FREE, PROJECTION, "primitives", FULL, ORACLE)  # the last two are of one training
# What matters most comes first: what no time is left for is read from the file.
ROWS = (
    TRAINING_FREE, SEEN_ONLY, PROJECTION, *_WITHOUT, ORACLE, *(swept(weight) for weight in STRUCTURE[1:]), PER_LABEL,
)  # fmt: skip
"""All rows."""


@dataclass(frozen=True)
class PadingMeasurement:
    """What one process measures.

    Attributes:
        seed: of the trainings of generators and classifiers.
        decoder: file of the query decoder.
        names: of the rows.
        scenes: to take vectors from and to judge each.
        steps: of each generator; None = the preset's.
        minutes: no row is begun that would most likely not end within them.
        device: as the setting.
        split: always that of things.
    """

    seed: int
    decoder: Path
    names: tuple[str, ...] = ROWS
    scenes: int = SCENES
    steps: int | None = None
    minutes: float = math.inf
    device: str = "auto"
    split: str = THINGS_SPLIT

    @property
    def halves(self) -> list[PadingMeasurement]:
        """Two processes' shares, of about the same work."""
        parts = (tuple(name for name in self.names if (name in _FIRST_HALF) is first) for first in (True, False))
        return [replace(self, names=names) for names in parts if names]


def measure_pading(task: PadingMeasurement) -> list[tuple[str, str, dict[str, Any]]]:
    """Measure rows with one seed, as many as there is time for: (paper, row, figures).

    None, and a line on the standard error, where the file is no decoder, or one of another encoder. Real vectors are
    those of the scenes with seed 0, which the stored decoder was trained on, whatever the seed.

    Raises:
        LearningError: the decoder has other labels.
    """
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        segmenter, evaluator = _judging(task.device, task.decoder, task.scenes)
    except (LearningError, ModelUnavailable) as error:
        sys.stderr.write(f"{task.split}: pading: {error}\n")  # the rows of other papers are measured beside these
        return []
    study = PadingStudy(segmenter, evaluator.decoder, evaluator.data, seed=task.seed, steps=task.steps)
    found: list[tuple[str, str, dict[str, Any]]] = []
    longest = 0.0
    for name in task.names:
        begun = time.monotonic()
        if begun - started + longest > task.minutes * 60:
            sys.stderr.write(f"{task.split}: no time is left for pading: {name}\n")
            continue
        figures = evaluator.figures(study.adapter(name), oracle=name == ORACLE)
        found.append(("pading", name, figures))
        longest = max(longest, time.monotonic() - begun)
        judged = figures["hm"]["pq"]
        told = "none, as no scene shows an unseen label" if judged is None else f"{judged:.3f}"
        sys.stderr.write(f"{task.split}, seed {task.seed}: pading: {name}: HM-PQ {told}, "
                         f"{time.monotonic() - begun:.0f} s\n")  # fmt: skip
    return found


@lru_cache(maxsize=1)
def _judging(device: str, file: Path, scenes: int) -> tuple[Segmenter, ThingsEvaluator]:
    """The model, and the proposals of the test images, which are the same for every seed."""
    segmenter = Segmenter.from_settings(replace(Settings.from_env({}), device=device), model="builtin")
    decoder = load_query_decoder(file, segmenter)
    return segmenter, ThingsEvaluator(segmenter, decoder, things_set(scenes=scenes))


class PadingStudy:
    """Holds the real vectors of one seed, and trains the classifiers of the rows on them.

    Args:
        segmenter: the model.
        decoder: trained with the seen labels of the data.
        data: whose training images are proposed in.
        seed: of the trainings.
        steps: of each generator; None = the preset's.
    """

    def __init__(
        self, segmenter: Segmenter, decoder: QueryDecoder, data: PanopticSet, *, seed: int, steps: int | None = None
    ) -> None:
        self._segmenter, self._decoder, self._data = segmenter, decoder, data
        self._recipe = PadingRecipe(seed=seed)
        if steps is not None:
            self._recipe = replace(self._recipe, generator=replace(self._recipe.config, steps=steps))
        self._real: RealVectors | None = None
        self._full: PadingAdapter | None = None

    def adapter(self, name: str) -> PadingAdapter | None:
        """Train the classifier of a row; None for the training-free one.

        Raises:
            KeyError: there is no such row.
        """
        if name not in ROWS:
            raise KeyError(name)
        if name == TRAINING_FREE:
            return None
        if self._real is None:
            self._real = real_vectors(self._decoder, segmented_images(self._data), self._segmenter)
        real, data = self._real, self._data
        if name in (SEEN_ONLY, PROJECTION):
            return self._baseline(name, real)
        if name in (FULL, ORACLE) and self._full is not None:
            return self._full
        config = self._recipe.config
        weights = {swept(weight): replace(config.weights, structure=weight) for weight in STRUCTURE}
        weights[PER_LABEL] = replace(config.weights, classification=_PER_LABEL_CLASSIFICATION)
        generator = replace(config, weights=weights.get(name, config.weights), per_label=name == PER_LABEL)
        recipe = replace(self._recipe, without=_WITHOUT.get(name, ()), generator=generator)
        made = recipe.classify(self._decoder, real, data.seen_words, data.unseen_words, self._segmenter)
        if name in (FULL, ORACLE):
            self._full = made
        return made

    def _baseline(self, name: str, real: RealVectors) -> PadingAdapter:
        data, config = self._data, self._recipe.config
        known = known_words(data.seen_words, data.unseen_words, self._segmenter)
        if name == SEEN_ONLY:
            classifier = without_unseen(self._decoder.classify, len(data.unseen))  # as the paper's row: pretrained
        else:
            classifier = train_projection(real, known.seen, known.unseen, config).classifier
        return PadingAdapter("pading", PadingRecipe.form, self._segmenter, self._decoder, classifier, data.seen_words,
                             data.unseen_words)  # fmt: skip
