"""A trained generator as named tensors and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.generator.feature_generator import FeatureGenerator
from worker.learning.generator.gmmn import GmmnGenerator
from worker.learning.generator.primitives import GeneratorSize, PrimitiveGenerator
from worker.learning.generator.trained import Negatives, TrainedGenerator
from worker.learning.generator.vectors import SUBJECT, Scaling, linear

_PREFIX = "generator."


def to_state(trained: TrainedGenerator) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Named float32 tensors, and JSON."""
    tensors = {
        **{_PREFIX + name: value for name, value in trained.generator.state_dict().items()},
        "classifier.weight": trained.classifier.weight, "classifier.bias": trained.classifier.bias,
        "texts": trained.texts, "word_centre": trained.word_scaling.centre, "centre": trained.scaling.centre,
        "negatives.vectors": trained.negatives.vectors, "negatives.weights": trained.negatives.weights,
    }  # fmt: skip
    made_of = trained.generator
    meta = {
        "size": asdict(made_of.size) if isinstance(made_of, PrimitiveGenerator) else None,
        "seen": trained.seen, "factor": trained.scaling.factor,
        "word_factor": trained.word_scaling.factor, "share": trained.negatives.share,
        "log": [dict(entry) for entry in trained.log],
    }  # fmt: skip
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, meta


def from_state(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> TrainedGenerator:
    """Read a trained generator again, on the device of the tensors.

    Raises:
        LearningError: it is not what `to_state` gives.
    """
    try:
        texts, classifier = tensors["texts"], linear(tensors["classifier.weight"], tensors["classifier.bias"])
        centre, size = tensors["centre"], meta["size"]
        generator: FeatureGenerator = (
            GmmnGenerator(texts.shape[1], len(centre)) if size is None
            else PrimitiveGenerator(texts.shape[1], len(centre), GeneratorSize(**size))
        )  # fmt: skip
        weights = {name.removeprefix(_PREFIX): one for name, one in tensors.items() if name.startswith(_PREFIX)}
        generator.to(texts.device).load_state_dict(weights)
        if len(texts) + 1 != classifier.out_features or not 0 < int(meta["seen"]) < len(texts):
            raise ValueError(f"{classifier.out_features} rows for {len(texts)} labels, {meta['seen']} of them seen")
        negatives = Negatives(tensors["negatives.vectors"], tensors["negatives.weights"], float(meta["share"]))
        return TrainedGenerator(
            generator.eval().requires_grad_(False), classifier, Scaling(centre, float(meta["factor"])),
            Scaling(tensors["word_centre"], float(meta["word_factor"])), texts, int(meta["seen"]), negatives,
            tuple(meta["log"]),
        )  # fmt: skip
    except (KeyError, RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        problem = f"what is stored is none ({str(error)[:200]})"
        raise LearningError(SUBJECT, problem, "Train it again.") from error
