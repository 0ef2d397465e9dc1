"""A trained query decoder as one file: safetensors in half precision, and in their metadata JSON about its form, its
labels, its training and the tower that it was trained on, whose weights are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from plugin_config.errors import EnvironmentBroken, LearningError, ModelUnavailable
from plugin_config.files import written_whole
from worker.learning.proposals.query_decoder import QueryDecoder, QueryDecoderConfig
from worker.segmentation.encoders.towers import Tower, TowerConfig
from worker.segmentation.segmenter import Segmenter

FORM = 1
"""Number of the format of the file."""

_ABOUT = "query_decoder"
_AGAIN = "Train it again with `python -m worker.lab.train_query_decoder`."
_ROOM = "Make room on the disk or name another file; what was there before is whole."


def save_query_decoder(
    path: Path, decoder: QueryDecoder, segmenter: Segmenter, training: Mapping[str, Any] | None = None
) -> None:
    """Write a decoder to a file, whole or not at all.

    Args:
        path: of the file; its folder is made where it is missing.
        decoder: to store.
        segmenter: the model it was trained on.
        training: JSON about how.

    Raises:
        EnvironmentBroken: it cannot be written; what was there before is whole.
    """
    about = {"form": FORM, "config": asdict(decoder.config), "labels": list(decoder.labels),
             "model": segmenter.encoder.name, "tower": decoder.tower.fingerprint,
             "training": dict(training or {})}  # fmt: skip
    tensors = {name: values.detach().cpu().half().contiguous() for name, values in decoder.state_dict().items()}
    data = save(tensors, {_ABOUT: json.dumps(about)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, durable=True) as aside:
            aside.write_bytes(data)
    except OSError as error:
        raise EnvironmentBroken(f"file {path}", f"the decoder cannot be written ({error})", _ROOM) from error


def load_query_decoder(path: Path, segmenter: Segmenter) -> QueryDecoder:
    """Load a decoder that `save_query_decoder` wrote.

    Raises:
        LearningError: there is none, it is damaged, or was trained on another tower than the loaded model's.
    """
    subject = f"query decoder {path}"
    try:
        with safe_open(path, framework="pt") as stored:
            about = json.loads((stored.metadata() or {})[_ABOUT])
            names = stored.keys()
            tensors = {name: stored.get_tensor(name).float() for name in names}
        config = _config(about["config"])
        labels, model, fingerprint = list(map(str, about["labels"])), str(about["model"]), str(about["tower"])
        is_known = about["form"] == FORM
    except (OSError, SafetensorError) as error:
        raise LearningError(subject, f"cannot be read ({error})", _AGAIN) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LearningError(subject, f"is none ({type(error).__name__}: {error})", _AGAIN) from error
    if not is_known:
        raise LearningError(subject, "was written by another release", _AGAIN)
    tower = _tower(subject, config.tower, model, fingerprint, segmenter)
    try:
        decoder = QueryDecoder(config, tower, labels)
        decoder.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ZeroDivisionError) as error:
        problem = f"is incomplete ({type(error).__name__}: {str(error)[:200]})"
        raise LearningError(subject, problem, _AGAIN) from error
    if not all(bool(one.isfinite().all()) for one in decoder.parameters()):
        raise LearningError(subject, "holds no numbers (NaN or infinite)", _AGAIN)
    return decoder.to(tower.device).eval().requires_grad_(False)


def _tower(subject: str, config: TowerConfig, model: str, fingerprint: str, segmenter: Segmenter) -> Tower:
    """The tower of the loaded model, if the decoder was trained on it."""
    problem = f"was trained on another encoder ({model}) than the one loaded ({segmenter.encoder.name})"
    remedy = f"Give --model {model}, or train another with `python -m worker.lab.train_query_decoder`."
    try:
        tower = segmenter.towers.get(config)
    except ModelUnavailable as error:
        raise LearningError(subject, problem, remedy) from error
    if tower.fingerprint != fingerprint:
        raise LearningError(subject, problem, remedy)
    return tower


def _config(stored: Mapping[str, Any]) -> QueryDecoderConfig:
    tower = dict(stored["tower"])
    hooks = tuple(int(k) for k in tower.pop("hooks"))
    numbers = {name: int(value) for name, value in stored.items() if name != "tower"}
    return QueryDecoderConfig(TowerConfig(hooks=hooks, **tower), **numbers)
