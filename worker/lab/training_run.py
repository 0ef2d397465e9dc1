"""One training of a dense recipe on a data set, in a folder: broken off and resumed with the same weights.

    <folder>/checkpoint.pt    weights, optimizer and settings, written whole or not at all
    <folder>/log.csv          a line for each step of the checkpoint, written with it
    <folder>/adapter.json     and its tensors: what the training has learned; see `worker.learning.adapter_files`
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from plugin_config.errors import EnvironmentBroken, LearningError
from plugin_config.files import written_whole
from worker.lab.dense_data import ZeroShotSet, set_settings, training_set
from worker.learning.adapter_files import save_adapter_folder
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.batches import entered
from worker.learning.recipes.dense.recipe import DenseRecipe
from worker.learning.recipes.dense.training import count_trained
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.segmenter import Segmenter

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"
SAVE_EVERY_S = 60.0
"""Seconds between checkpoints."""

_LAST = 20  # steps whose mean is the loss that is reported
_ROOM = "Make room on the disk, then go on with --resume; the last whole checkpoint is still there."
_OTHER = "Resume with the settings it was begun with, or name another --output-dir."

# What torch raises for a file that is none of its own, or half of one.
_NO_CHECKPOINT = (UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, AttributeError)

Report = Callable[[int, int, float], None]
"""(steps done, steps in all, loss of the last step)"""


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        recipe: its title.
        steps: done so far, also by runs before this one.
        seconds: of training, also of runs before this one.
        parameters: how many numbers are trained.
        loss: mean over the last steps; None without any.
        adapter: folder of what was learned.
    """

    recipe: str
    steps: int
    seconds: float
    parameters: int
    loss: float | None
    adapter: str

    def as_json(self) -> dict[str, Any]:
        """The line that `zeromask train --json` prints last."""
        loss = None if self.loss is None else round(self.loss, 5)
        return {**asdict(self), "seconds": round(self.seconds, 1), "loss": loss}


@dataclass
class _Progress:
    """What a checkpoint holds beside the trainer's state."""

    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


class TrainingRun:
    """Holds a network in training and the folder that it is written to.

    Args:
        recipe: what is trained.
        data: the images; only masks of its seen labels are looked at.
        segmenter: the model.
        folder: of the checkpoint, the log and the adapter; made when the first of them is written.
        settings: further JSON that decides the weights, such as a digest of the text vectors.
        resume: go on from the folder's checkpoint.

    Raises:
        EnvironmentBroken: the folder cannot be read.
        LearningError: there is nothing to learn from; the folder's training cannot be resumed with these settings, or
            was not to be.
        ModelUnavailable: the network's tower cannot be loaded.
    """

    def __init__(
        self, recipe: DenseRecipe, data: ZeroShotSet, segmenter: Segmenter, folder: Path, *,
        settings: Mapping[str, Any] | None = None, resume: bool = False,
    ) -> None:  # fmt: skip
        self._recipe, self._data, self._segmenter, self._folder = recipe, data, segmenter, folder
        if resume:
            _check_place(folder)
        else:
            refuse_to_overwrite(folder)
        stored = _read_checkpoint(folder) if resume else None
        words, samples = training_set(data, recipe.hidden)
        if not samples:
            raise LearningError(f"data {data.name}", "no image shows a label to learn", "Name fewer labels as unseen.")
        self.network, self.labels = recipe.build(words, segmenter)
        config = recipe.training_of(self.network, self.labels, segmenter)
        self._settings = _settings(recipe, data, segmenter, {"training": asdict(config), **(settings or {})})
        if stored is not None:
            _refuse_other_settings(folder, json.loads(stored["settings"]), self._settings)
        self.trainer = recipe.trainer(self.network, self.labels, samples, segmenter)
        self._progress = _Progress()
        if stored is not None:
            self.trainer.restore(stored["trainer"])
            self._progress = _Progress(float(stored["seconds"]), _read_log(folder, self.trainer.steps_done))
        short = recipe.short_side(self.network, segmenter)
        self._entering = [entered(sample, short) for sample in samples]

    @property
    def pictures_a_step(self) -> int:
        """How many crops each step sees."""
        return self.trainer.config.batch

    def train(
        self, *, minutes: float = math.inf, report: Report | None = None, save_every_s: float = SAVE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Train until the steps or the minutes are over, one step at least; a checkpoint is written on the way.

        Raises:
            EnvironmentBroken: a checkpoint cannot be written; the last one is whole.
            LearningError: the loss is no number; the last checkpoint is as it was.
        """
        trainer, steps = self.trainer, self.trainer.config.steps
        started = saved = clock()
        before = self._progress.seconds
        on_cpu = self.network.tower.device.type == "cpu"
        while trainer.steps_done < steps:
            try:
                with one_thread() if on_cpu else nullcontext():
                    terms = trainer.step(*trainer.draw(self._entering))
            except LearningError as error:
                raise self._broken(error.problem) from error
            now = clock()
            self._progress.seconds = before + now - started
            self._progress.rows.append({"step": trainer.steps_done, "seconds": self._progress.seconds, **terms})
            if report is not None:
                report(trainer.steps_done, steps, terms["total"])
            if now - started >= minutes * 60:
                break
            if now - saved >= save_every_s:
                self.save()
                saved = now
        self.save()

    def save(self) -> None:
        """Write the checkpoint and the log, each whole or not at all.

        Raises:
            EnvironmentBroken: they cannot be written; the last ones are whole.
            LearningError: the weights are no numbers.
        """
        weights = [*self.network.parameters(), *self.labels.parameters()]
        if not all(bool(one.isfinite().all()) for one in weights):
            raise self._broken(f"the weights after step {self.trainer.steps_done} are no numbers")
        buffer = io.BytesIO()  # torch itself reports a full disk as it reports anything
        progress = {"settings": json.dumps(self._settings), "seconds": self._progress.seconds}
        torch.save({"trainer": self.trainer.state(), **progress}, buffer)
        made = not self._folder.exists()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._folder / LOG) as aside:
                aside.write_text(_as_csv(self._progress.rows))
            with written_whole(self._folder / CHECKPOINT, durable=True) as aside:
                aside.write_bytes(buffer.getbuffer())
        except OSError as error:
            if made:
                with suppress(OSError):
                    (self._folder / LOG).unlink()
                    self._folder.rmdir()
            raise EnvironmentBroken(f"folder {self._folder}", f"it cannot be written to ({error})", _ROOM) from error

    def adapter(self) -> DenseAdapter:
        """What has been learned so far, as a head."""
        return self._recipe.adapter(self.network, self.labels, self._segmenter)

    def finish(self, *, command: str = "") -> TrainingResult:
        """Write the adapter.

        Raises:
            EnvironmentBroken: it cannot be written; what was there before is whole.
        """
        losses = [row["total"] for row in self._progress.rows[-_LAST:]]
        result = TrainingResult(
            self._recipe.title, self.trainer.steps_done, self._progress.seconds,
            count_trained(self.network, self.labels), sum(losses) / len(losses) if losses else None, str(self._folder),
        )  # fmt: skip
        about = {**self._settings, "command": command, "steps": result.steps, "loss": result.loss,
                 "labels": [self._data.labels[k] for k in self._data.seen]}  # fmt: skip
        save_adapter_folder(self._folder, self.adapter(), self._segmenter, about)
        return result

    def _broken(self, problem: str) -> LearningError:
        kept = self._folder / CHECKPOINT
        there = f"; the last good checkpoint is {kept}" if kept.is_file() else ""
        remedy = "Begin anew in another --output-dir with a lower --rate, or with --precision fp32."
        return LearningError("training", f"{problem}{there}", remedy)


def _settings(
    recipe: DenseRecipe, data: ZeroShotSet, segmenter: Segmenter, further: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides the weights, as it is after a round trip through JSON."""
    found = {
        "recipe": recipe.name, "seed": recipe.seed, "preset": recipe.preset, "tower": recipe.tower,
        "changes": dict(recipe.changes), "without": list(recipe.without), "model": segmenter.encoder.name,
        "weights": segmenter.encoder.fingerprint, **set_settings(data), **recipe.settings(), **further,
    }  # fmt: skip
    return dict(json.loads(json.dumps(found)))


def _check_place(folder: Path) -> None:
    """An hour of training is not to end with a folder that cannot be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        problem = f"{there} is {'not writable' if there.is_dir() else 'no folder'}"
        raise EnvironmentBroken(f"folder {folder}", problem, "Name another --output-dir.")


def refuse_to_overwrite(folder: Path) -> None:
    """Refuse a folder that nothing may be begun in.

    Raises:
        EnvironmentBroken: it cannot be made, or written to.
        LearningError: it holds a training.
    """
    _check_place(folder)
    if (folder / CHECKPOINT).exists():
        problem = "holds a training already"
        raise LearningError(f"folder {folder}", problem, "Go on with --resume, or name another --output-dir.")


def _read_checkpoint(folder: Path) -> dict[str, Any]:
    path = folder / CHECKPOINT
    if not path.is_file():
        raise LearningError(f"folder {folder}", "holds no training to resume", "Start without --resume.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {"trainer": dict(found["trainer"]), "settings": str(found["settings"]),
                "seconds": float(found["seconds"])}  # fmt: skip
    except OSError as error:
        raise EnvironmentBroken(f"checkpoint {path}", f"it cannot be read ({error})", "Check its rights.") from error
    except _NO_CHECKPOINT as error:
        problem = f"is damaged ({type(error).__name__})"
        raise LearningError(f"checkpoint {path}", problem, "Begin anew in another --output-dir.") from error


def _refuse_other_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    then, present = _flat(before), _flat(now)
    other = [name for name in {**then, **present} if then.get(name) != present.get(name)]
    if other:
        name = other[0]
        problem = f"was begun with {name} {then.get(name)!r}, not {present.get(name)!r}"
        raise LearningError(f"training in {folder}", problem, _OTHER)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = prefix if name == "training" else f"{prefix}{name} "
        found |= _flat(value, inner) if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _read_log(folder: Path, steps: int) -> list[dict[str, float]]:
    """The lines of the steps that the checkpoint holds; none where the log is not there to read."""
    with suppress(OSError, ValueError, KeyError, TypeError), (folder / LOG).open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        return [row for row in rows if row["step"] <= steps]
    return []


def _as_csv(rows: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if name != "step" else int(value) for name, value in row.items()})
    return text.getvalue()
