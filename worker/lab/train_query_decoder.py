"""Train the query decoder of PADing's rows on drawn scenes of seen labels; broken off, it goes on where it was.

    python -m worker.lab.train_query_decoder --output-dir decoder

    <folder>/checkpoint.pt                  weights, optimizer and settings, written whole or not at all
    <folder>/query_decoder.safetensors      the trained decoder; see `worker.learning.proposals.decoder_files`
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import click
import torch
from rich.console import Console

from plugin_config.errors import EnvironmentBroken, LearningError, SettingsError, ZeromaskError
from plugin_config.files import written_whole
from plugin_config.settings import Settings
from worker.lab.dense_data import SCENES
from worker.lab.evaluation.proposal_recall import proposal_recall
from worker.lab.progress import shown
from worker.lab.things_data import PanopticSet, segmented_images, things_set
from worker.learning.proposals.decoder_files import load_query_decoder, save_query_decoder
from worker.learning.proposals.entering import propose
from worker.learning.proposals.query_training import QueryDecoderTrainer, QueryTrainingConfig, query_decoder_trainer
from worker.segmentation.segmenter import Segmenter

CHECKPOINT, DECODER = "checkpoint.pt", "query_decoder.safetensors"
"""Names of the files in the folder."""

_SAVE_EVERY_S = 60.0
_ROOM = "Make room on the disk, then go on with --resume; the last whole checkpoint is still there."
# What torch raises for a file that is none of its own, or half of one.
_NO_CHECKPOINT = (UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, AttributeError)


def train_in_folder(
    folder: Path, segmenter: Segmenter, data: PanopticSet, config: QueryTrainingConfig, *, seed: int,
    minutes: float = math.inf, resume: bool = False, console: Console | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    """Train until the steps or the minutes are over; write a checkpoint each minute, and the decoder at the end.

    Args:
        folder: made where it is missing.
        segmenter: the model.
        data: whose training scenes are learned from.
        config: of the training.
        seed: of the scenes.
        minutes: of this run.
        resume: whether to go on from the folder's checkpoint.
        console: where progress is shown; None = nowhere.

    Returns:
        JSON: steps and seconds of all runs, the loss of the last step, the trained numbers.

    Raises:
        EnvironmentBroken: the folder cannot be read or written.
        LearningError: there is a training already, or none to resume, or one with other settings; or the loss is no
            number.
    """
    labels = [data.labels[k] for k in data.seen]
    settings = {"data": data.name, "scenes": len(data.training), "scene_seed": seed,
                "encoder": segmenter.encoder.fingerprint, **asdict(config)}  # fmt: skip
    trainer = query_decoder_trainer(segmented_images(data), labels, segmenter, config)
    spent = _restore(folder, trainer, settings) if resume else _refuse_to_overwrite(folder)
    started = saved = time.monotonic()
    loss = math.nan
    with shown(console or Console(quiet=True), "Query decoder", config.steps, done=trainer.steps_done) as show:
        while trainer.steps_done < config.steps and time.monotonic() - started < 60 * minutes:
            loss = trainer.step()["total"]
            show(trainer.steps_done, f"loss {loss:.2f}")
            now = time.monotonic()
            if now - saved >= _SAVE_EVERY_S:
                _save(folder, trainer, settings, spent + now - started)
                saved = now
    seconds = spent + time.monotonic() - started
    _save(folder, trainer, settings, seconds)
    about = {"steps": trainer.steps_done, "seconds": round(seconds, 1), "loss": None if math.isnan(loss) else loss}
    save_query_decoder(folder / DECODER, trainer.decoder, segmenter, {**settings, **about})
    parameters = sum(one.numel() for one in trainer.decoder.parameters())
    return {**about, "parameters": parameters, "labels": len(labels), "decoder": str(folder / DECODER)}


def _save(folder: Path, trainer: QueryDecoderTrainer, settings: Mapping[str, Any], seconds: float) -> None:
    buffer = io.BytesIO()  # torch itself reports a full disk as it reports anything
    torch.save({"trainer": trainer.state(), "settings": json.dumps(settings), "seconds": seconds}, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / CHECKPOINT, durable=True) as aside:
            aside.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", _ROOM) from error


def _restore(folder: Path, trainer: QueryDecoderTrainer, settings: Mapping[str, Any]) -> float:
    """Go on from the folder's checkpoint; the seconds that were spent before."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise LearningError(f"folder {folder}", "holds no training to resume", "Start without --resume.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        state, before, seconds = dict(found["trainer"]), dict(json.loads(found["settings"])), float(found["seconds"])
    except OSError as error:
        raise EnvironmentBroken(f"checkpoint {path}", f"it cannot be read ({error})", "Check its rights.") from error
    except _NO_CHECKPOINT as error:
        problem = f"is damaged ({type(error).__name__})"
        raise LearningError(f"checkpoint {path}", problem, "Begin anew in another --output-dir.") from error
    now = json.loads(json.dumps(settings))
    other = [name for name in now if before.get(name) != now[name]]
    if other:
        problem = f"was begun with {other[0]} {before.get(other[0])!r}, not {now[other[0]]!r}"
        remedy = "Resume with the settings it was begun with, or name another --output-dir."
        raise LearningError(f"training in {folder}", problem, remedy)
    trainer.restore(state)
    return seconds


def _refuse_to_overwrite(folder: Path) -> float:
    if (folder / CHECKPOINT).exists():
        remedy = "Go on with --resume, or name another --output-dir."
        raise LearningError(f"folder {folder}", "holds a training already", remedy)
    return 0.0


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder of the checkpoint and the decoder.")  # fmt: skip
@click.option("--steps", default=QueryTrainingConfig.steps, show_default=True)
@click.option("--batch", default=QueryTrainingConfig.batch, show_default=True, help="Scenes per step.")
@click.option("--rate", default=QueryTrainingConfig.rate, show_default=True, help="Learning rate.")
@click.option("--scenes", default=SCENES, show_default=True, help="Drawn scenes to learn from.")
@click.option("--seed", default=0, show_default=True, help="Of drawn scenes, weights and batches.")
@click.option("--minutes", default=math.inf, help="Stop after this long; go on later with --resume.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --output-dir, with the same settings.")
@click.option("--model", default="builtin", show_default=True, help="As the MODEL setting.")
@click.option("--test-scenes", default=50, show_default=True, help="Drawn scenes that the recall is measured on.")
def main(
    output_dir: Path, steps: int, batch: int, rate: float, scenes: int, seed: int, minutes: float, resume: bool,
    model: str, test_scenes: int,
) -> None:  # fmt: skip
    """Train, and print what it came to, with the recall at IoU 0.5, as one JSON line."""
    try:
        if seed < 0:
            raise SettingsError("--seed", f"{seed} is below 0", "Give 0 or a larger one.")
        settings = Settings.from_env(os.environ)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        segmenter = Segmenter.from_settings(settings, model=model)
        config = QueryTrainingConfig(steps=steps, batch=batch, rate=rate, seed=seed)
        data = things_set(scenes=scenes, seed=seed)
        found = train_in_folder(output_dir, segmenter, data, config, seed=seed, minutes=minutes, resume=resume,
                                console=Console(stderr=True))  # fmt: skip
        trained = load_query_decoder(output_dir / DECODER, segmenter)
        tested = things_set(scenes=test_scenes)
        recall = proposal_recall(lambda image: propose(image, trained, segmenter).proposals, tested, tested.test)
    except ZeromaskError as error:
        sys.stderr.write(f"train_query_decoder: {error}\n")
        raise SystemExit(2) from error
    click.echo(json.dumps({**found, "recall": recall}))


if __name__ == "__main__":
    main()
