"""`zeromask train --recipe pading`: a query decoder, then generator and classifier, in one folder.

    <folder>/query_decoder/    checkpoint and decoder of the first stage; none where a stored decoder is given
    <folder>/log.csv           losses of the second stage
    <folder>/adapter.json      and its tensors; see `worker.learning.adapter_files`

The first stage goes on where it was broken off; the second takes a minute and begins anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from plugin_config.errors import EnvironmentBroken, LearningError, SettingsError
from plugin_config.files import written_whole
from worker.lab.evaluation.proposal_recall import Recall, recall_of_sources
from worker.lab.progress import shown
from worker.lab.things_data import THINGS, PanopticSet, segmented_images, things_set
from worker.lab.train_query_decoder import DECODER, train_in_folder
from worker.learning.adapter_files import MANIFEST, save_adapter_folder
from worker.learning.generator.vectors import RealVectors
from worker.learning.proposals.decoder_files import load_query_decoder
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.learning.proposals.query_training import QueryTrainingConfig
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.learning.recipes.pading.recipe import PadingRecipe, known_words
from worker.learning.recipes.pading.vectors import real_vectors
from worker.segmentation.encoders.towers import ENCODER
from worker.segmentation.segmenter import Segmenter

FIRST_STAGE = "query_decoder"
"""Folder of the query decoder in that of the training."""

_LOG = "log.csv"
_STEPS = 20  # whose mean is the loss that is reported
_TESTED = 50  # scenes, at most, that the recall of the proposals is measured on
_NO_USE = ("text_vectors", "block", "precision", "batch", "rate", "unseen")
_DEFAULTS = {"tower": ENCODER, "block_depth": 1, "activation": "lrelu"}  # of no use either, but never empty


@dataclass(frozen=True)
class PadingResult:
    """What both stages came to.

    Attributes:
        steps: of the second stage; 0 without a generator.
        seconds: of both in this run.
        parameters: how many numbers generator and classifier have.
        loss: of the classifier, mean over the last steps; None without a generator.
        adapter: folder of what was learned.
        query_decoder: file of the decoder.
        vectors: real vectors that were found in the training scenes.
        left_out: unseen labels for which nothing is generated, with the reason.
        recall: of the decoder's proposals and of the engine's own regions, by the name of the source.
    """

    steps: int
    seconds: float
    parameters: int
    loss: float | None
    adapter: str
    query_decoder: str
    vectors: int
    left_out: Mapping[str, str]
    recall: Mapping[str, Recall]

    def as_json(self) -> dict[str, Any]:
        """The line that `zeromask train --json` prints last."""
        loss = None if self.loss is None else round(self.loss, 5)
        return {"recipe": PadingRecipe.name, **vars(self), "seconds": round(self.seconds, 1), "loss": loss}


def recipe_of(options: argparse.Namespace) -> PadingRecipe:
    """The recipe of the command line.

    Raises:
        LearningError: it has no such part or preset.
        SettingsError: an option is of other recipes.
    """
    given = [name for name in _NO_USE if vars(options)[name]]
    given += [name for name, default in _DEFAULTS.items() if vars(options)[name] != default]
    if given:
        problem = "recipe pading has no use for it"
        raise SettingsError(f"--{given[0].replace('_', '-')}", problem, "Leave it away, or train another recipe.")
    if options.data != THINGS:
        remedy = f"Give --data {THINGS}."
        raise SettingsError(f"data {options.data!r}", "has no things one by one, as pading needs them", remedy)
    first = QueryTrainingConfig()
    if options.decoder_steps is not None:
        first = replace(first, steps=options.decoder_steps)
    recipe = PadingRecipe(without=tuple(options.without), preset=options.preset, decoder_training=first,
                          seed=options.seed)  # fmt: skip
    return recipe if options.steps is None else replace(recipe, generator=replace(recipe.config, steps=options.steps))


def train_pading(
    options: argparse.Namespace, segmenter: Segmenter, console: Console, *, command: str = ""
) -> PadingResult:
    """Run both stages.

    Args:
        options: of `zeromask train`.
        segmenter: the model.
        console: where progress is shown.
        command: that was given, for the record.

    Raises:
        EnvironmentBroken: the folder cannot be read or written.
        LearningError: the folder holds a training that was not to be resumed; nothing can be learned; the query decoder
            is of another encoder or of other labels. What the folder held before is whole.
    """
    recipe = recipe_of(options)
    folder, started = Path(options.output_dir), time.monotonic()
    if (folder / MANIFEST).exists() and not options.resume:
        remedy = "Go on with --resume, or name another --output-dir."
        raise LearningError(f"folder {folder}", "holds a training already", remedy)
    data = things_set(scenes=options.scenes, seed=options.seed)
    file = _first_stage(options, recipe, data, segmenter, console)
    decoder = load_query_decoder(file, segmenter)
    known = known_words(data.seen_words, data.unseen_words, segmenter)
    left_out = {" / ".join(texts): reason for texts, reason in known.left_out.items()}
    for label, reason in left_out.items():
        console.print(f"label {label!r}: {reason}", style="yellow", markup=False)
    real = _vectors(decoder, data, segmenter, console)
    adapter = _second_stage(recipe, decoder, real, data, segmenter, console)
    log = [] if adapter.trained is None else list(adapter.trained.log)
    _write_log(folder, log)
    losses = [entry["classifier"] for entry in log[-_STEPS:]]
    loss = math.fsum(losses) / len(losses) if losses else None
    steps = 0 if adapter.trained is None else recipe.config.steps
    about = {
        "recipe": recipe.name, "seed": recipe.seed, "preset": recipe.preset, "without": list(recipe.without),
        "data": data.name, "images": len(data.training), "labels": [data.labels[k] for k in data.seen],
        "unseen": data.unseen_labels, "steps": steps, "loss": loss, "command": command,
    }  # fmt: skip
    save_adapter_folder(folder, adapter, segmenter, about)
    seconds = time.monotonic() - started
    trained = [adapter.classifier, *([] if adapter.trained is None else [adapter.trained.generator])]
    parameters = sum(one.numel() for part in trained for one in part.parameters())
    return PadingResult(steps, seconds, parameters, loss, str(folder), str(file), len(real.labels), left_out,
                        recall_of_sources(decoder, segmenter, data, data.test[:_TESTED], console))  # fmt: skip


def _first_stage(
    options: argparse.Namespace, recipe: PadingRecipe, data: PanopticSet, segmenter: Segmenter, console: Console
) -> Path:
    """The file of the query decoder, trained here unless one is given."""
    if options.query_decoder is not None:
        return Path(options.query_decoder)
    folder = Path(options.output_dir) / FIRST_STAGE
    config = replace(recipe.decoder_training, seed=options.seed)
    train_in_folder(folder, segmenter, data, config, seed=options.seed, minutes=options.minutes, resume=options.resume,
                    console=console)  # fmt: skip
    return folder / DECODER


def _vectors(decoder: QueryDecoder, data: PanopticSet, segmenter: Segmenter, console: Console) -> RealVectors:
    with shown(console, "Vectors of the training scenes", len(data.training)) as show:
        return real_vectors(decoder, segmented_images(data), segmenter, lambda done, _: show(done))


def _second_stage(
    recipe: PadingRecipe, decoder: QueryDecoder, real: RealVectors, data: PanopticSet, segmenter: Segmenter,
    console: Console,
) -> PadingAdapter:  # fmt: skip
    """Generator and classifier; the losses of both are shown."""
    with shown(console, "Generator and classifier", recipe.config.steps) as show:

        def report(step: int, terms: Mapping[str, float]) -> None:
            show(step, f"losses {terms['generator']:.3f} and {terms['classifier']:.3f}")

        return recipe.classify(decoder, real, data.seen_words, data.unseen_words, segmenter, report)


def _write_log(folder: Path, log: Sequence[Mapping[str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(log[0]) if log else ["step"], lineterminator="\n")
    writer.writeheader()
    for entry in log:
        writer.writerow({name: int(value) if name == "step" else f"{value:.6g}" for name, value in entry.items()})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / _LOG) as aside:
            aside.write_text(text.getvalue())
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", "Name another.") from error
