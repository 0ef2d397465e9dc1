"""`zeromask train`: a recipe learns from drawn scenes or your photographs, and becomes an adapter folder."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from plugin_config.closed_output import run_command
from plugin_config.errors import LearningError, SettingsError, ZeromaskError
from plugin_config.settings import Settings
from worker.lab.dense_data import PAIRS, SCENES, WORDS, ZeroShotSet, read_text_vectors, zero_shot_set
from worker.lab.evaluation.proposal_recall import table
from worker.lab.pading_run import FIRST_STAGE, PadingResult, train_pading
from worker.lab.progress import shown
from worker.lab.things_data import THINGS
from worker.lab.training_run import CHECKPOINT, Report, TrainingResult, TrainingRun, refuse_to_overwrite
from worker.lab.zegclip_count import count_zegclip
from worker.learning.adapter_files import save_adapter_folder
from worker.learning.proposals.query_training import QueryTrainingConfig
from worker.learning.recipes import RECIPES
from worker.learning.recipes.dense.blocks import ACTIVATIONS, BLOCKS
from worker.learning.recipes.dense.labels import TextVectors
from worker.learning.recipes.dense.presets import SMALL
from worker.learning.recipes.dense.recipe import DenseRecipe
from worker.learning.recipes.dense.training import TrainingConfig
from worker.learning.recipes.dense.zegclip_recipe import NON_EXCLUSIVE, ZegclipRecipe
from worker.learning.recipes.pading.recipe import PadingRecipe
from worker.segmentation.encoders.towers import ENCODER
from worker.segmentation.segmenter import Segmenter

_OF_ZEGCLIP = ("transductive", "leaked", "as_released", "exclusive", "counting", "released")
_OF_PADING = ("query_decoder", "decoder_steps")
_NOT_COUNTED = ("without", "exclusive", "steps", "batch", "rate", "precision", "transductive", "leaked", "as_released",
                "released")  # fmt: skip
_INTERRUPTED = 130  # as a shell has it


def main(arguments: Sequence[str]) -> int:
    """Train what the command line asks for. Returns 0; 2 when it could not start or finish, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console = Console(stderr=True)
    options = argparse.Namespace(output_dir=None)
    try:
        settings = Settings.from_env(os.environ)
        options = _parser(settings, trains="--count" not in arguments).parse_args(arguments)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        if options.count:
            return _count(options)
        result = _train(options, replace(settings, device=options.device), arguments, console)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask train: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"zeromask train: stopped. {_after_a_stop(options.output_dir)}\n")
        return _INTERRUPTED
    if options.json:
        sys.stdout.write(json.dumps(result.as_json()) + "\n")
    else:
        loss = "none" if result.loss is None else f"{result.loss:.4f}"
        name = result.recipe if isinstance(result, TrainingResult) else PadingRecipe.name
        sys.stdout.write(f"{name}: {result.steps} steps in {result.seconds:.0f} s, {result.parameters} "
                         f"parameters, loss {loss} -> {result.adapter}\n")  # fmt: skip
        if isinstance(result, PadingResult):
            sys.stdout.write(table(result.recall))
    return 0


def _train(
    options: argparse.Namespace, settings: Settings, arguments: Sequence[str], console: Console
) -> TrainingResult | PadingResult:
    _check_numbers(options)
    command = shlex.join(["zeromask", "train", *arguments])
    if options.recipe == PadingRecipe.name:
        _refuse(options, _OF_ZEGCLIP, PadingRecipe.name)
        return train_pading(options, Segmenter.from_settings(settings, model=options.model), console, command=command)
    _refuse(options, _OF_PADING, options.recipe)
    data = zero_shot_set(options.data, unseen=options.unseen.split(","), scenes=options.scenes, seed=options.seed)
    texts = read_text_vectors(options.text_vectors, data.labels) if options.text_vectors else None
    recipe = recipe_of(options, texts)
    segmenter = Segmenter.from_settings(settings, model=options.model)
    if isinstance(recipe, ZegclipRecipe) and options.released is not None:
        return _import(options, recipe, data, segmenter, command)
    further = {"text vectors": _digest(options.text_vectors) if options.text_vectors else None}
    recipe = recipe.told(data.unseen_words)
    run = TrainingRun(recipe, data, segmenter, options.output_dir, settings=further, resume=options.resume)
    with _shown(console, run) as report:
        run.train(minutes=options.minutes, report=report)
    return run.finish(command=command)


def _after_a_stop(folder: Path | None) -> str:
    """How to go on with a training that was to be written to a folder."""
    if folder is not None and any((place / CHECKPOINT).exists() for place in (folder, folder / FIRST_STAGE)):
        return "Go on from the last checkpoint with --resume."
    return "There is no checkpoint yet: one is written every minute. Start it again without --resume."


def _count(options: argparse.Namespace) -> int:
    """Print how large a network of a paper is and what a window costs; nothing is trained or loaded."""
    name = PadingRecipe.name if options.recipe == PadingRecipe.name else recipe_of(options, None).name
    if name != ZegclipRecipe.name:
        remedy = "Leave --count away: a training prints its parameters, too."
        raise LearningError(f"recipe {name}", "is not counted by itself", remedy)
    given = [name for name in _NOT_COUNTED if vars(options)[name]]
    if given:
        problem = "it changes nothing of what --count counts, the network of the paper as it is"
        raise SettingsError(f"--{given[0].replace('_', '-')}", problem, "Leave one of the two away.")
    found = count_zegclip(options.preset)
    if options.json:
        sys.stdout.write(json.dumps(found.as_json()) + "\n")
    else:
        sys.stdout.write(f"{found.recipe}, {found.preset}: {found.parameters} parameters, {found.live_parameters} of "
                         f"them live, {found.gmacs:.1f} GMAC at {found.pixels} pixels with {found.labels} labels\n"
                         )  # fmt: skip
    return 0


def _import(
    options: argparse.Namespace, recipe: ZegclipRecipe, data: ZeroShotSet, segmenter: Segmenter, command: str
) -> TrainingResult:
    """Make an adapter folder of a checkpoint of the authors, without any training."""
    refuse_to_overwrite(options.output_dir)
    adapter = recipe.released(options.released, data.seen_words, segmenter)
    about = {"recipe": recipe.name, "released": options.released.name, "command": command, "unseen": data.unseen_labels,
             "labels": [data.labels[k] for k in data.seen], **recipe.settings()}  # fmt: skip
    save_adapter_folder(options.output_dir, adapter, segmenter, about)
    parameters = sum(one.numel() for one in adapter.network.parameters())
    return TrainingResult(recipe.title, 0, 0.0, parameters, None, str(options.output_dir))


def recipe_of(options: argparse.Namespace, texts: TextVectors | None) -> DenseRecipe:
    """The recipe of the command line, with its numbers for the training.

    Raises:
        LearningError: there is no such recipe, or it has no such part.
    """
    dense = {name: made for name, made in RECIPES.items() if isinstance(made, type) and issubclass(made, DenseRecipe)}
    if options.recipe not in dense:
        also = "learns from corrections in Label Studio" if options.recipe in RECIPES else "is not known"
        raise LearningError(f"recipe {options.recipe!r}", also, f"Choose one of {', '.join(dense)}.")
    changes: dict[str, Any] = {}
    if options.block:
        changes = {"block": options.block, "block_depth": options.block_depth, "activation": options.activation}
    recipe = dense[options.recipe](without=tuple(options.without), preset=options.preset, tower=options.tower,
                                   changes=changes, texts=texts, seed=options.seed)  # fmt: skip
    if isinstance(recipe, ZegclipRecipe):
        recipe = _zegclip(recipe, options)
    else:
        _refuse(options, _OF_ZEGCLIP, recipe.name)
    given = {name: vars(options)[name] for name in ("steps", "batch", "rate", "precision")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return recipe
    return replace(recipe, training=replace(recipe.trainings.get(recipe.preset, TrainingConfig()), **given))


def _refuse(options: argparse.Namespace, names: Sequence[str], recipe: str) -> None:
    """Refuse options of another recipe.

    Raises:
        SettingsError: one of them is given.
    """
    asked = [name for name in names if vars(options)[name]]
    if asked:
        other = "pading" if asked[0] in _OF_PADING else "zegclip"
        option = f"--{asked[0].replace('_', '-')}"
        raise SettingsError(option, f"recipe {recipe} has no use for it", f"Leave it away, or train {other}.")


def _zegclip(recipe: ZegclipRecipe, options: argparse.Namespace) -> ZegclipRecipe:
    """The options that ZegCLIP alone has."""
    if options.block:
        raise SettingsError("--block", "recipe zegclip has no use for it", "Leave it away, or train lseg.")
    left_out = dict.fromkeys((*recipe.without, *((NON_EXCLUSIVE,) if options.exclusive else ())))
    return replace(
        recipe, without=tuple(left_out), changes={"counting": True} if options.counting else {},
        transductive=options.transductive, leaked=options.leaked, as_released=options.as_released,
    )  # fmt: skip


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("steps", "decoder_steps", "batch", "rate", "minutes", "scenes", "block_depth"):
        value = vars(options)[name]
        if value is not None and not value > 0:  # NaN is not, either
            option = f"--{name.replace('_', '-')}"
            raise SettingsError(option, f"{value} is not above 0", "Give a larger one, or leave it away.")
    if options.seed < 0:
        raise SettingsError("--seed", f"{options.seed} is below 0", "Give 0 or a larger one.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _shown(console: Console, run: TrainingRun) -> Iterator[Report]:
    """Shows the loss and the pictures per second."""
    with shown(console, "Training", run.trainer.config.steps, done=run.trainer.steps_done) as show:
        last = time.monotonic()

        def report(done: int, _steps: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            pace = run.pictures_a_step / max(now - last, 1e-6)
            last = now
            show(done, f"loss {loss:.3f}, {pace:.1f} pictures/s")

        yield report


def _parser(settings: Settings, *, trains: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeromask train", description="Train a recipe; see "
                                     "docs/guide/dense.md.")  # fmt: skip
    add = parser.add_argument
    add("--recipe", required=True, help="what learns: lseg, sazs, zegclip or pading")
    add("--data", required=trains, metavar="D", help=f"{WORDS}, {PAIRS}, for pading {THINGS}; or a folder with "
        "images/, masks/, classes.json and split.json")  # fmt: skip
    add("--output-dir", type=Path, required=trains, help="folder of the checkpoint, log.csv and the adapter")
    add("--unseen", default="", metavar="A,B", help="labels of a folder whose masks are not learned from")
    add("--text-vectors", type=Path, metavar="FILE", help="NPZ of label -> vector, in place of the text tower")
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--tower", default=ENCODER, help="image tower of the small preset: a name of timm, or NAME:FILE "
        "(default: the model's own)")  # fmt: skip
    add("--preset", default=SMALL, help="size of the network (default: %(default)s)")
    add("--block", choices=sorted(BLOCKS), default="", help="LSeg's spatial regularisation (default: none)")
    add("--block-depth", type=int, default=1, help="how often it is applied (default: %(default)s)")
    add("--activation", choices=sorted(ACTIVATIONS), default="lrelu", help="between two (default: %(default)s)")
    add("--without", nargs="+", default=[], metavar="PART", help="parts of the recipe to leave out; the generator is "
        "used by pading alone here: the others learn from masks")  # fmt: skip
    add("--exclusive", action="store_true", help="zegclip: one softmax over all labels, not a sigmoid for each")
    add("--transductive", action="store_true", help="zegclip: names of unseen labels are known; pseudo-labels in the "
        "second half")  # fmt: skip
    add("--leaked", action="store_true", help="with it: pseudo-labels go to pixels that truly show an unseen label")
    add("--as-released", action="store_true", help="zegclip: ignored pixels are negatives of every label")
    add("--counting", action="store_true", help="zegclip: hold the weights, too, that no mask depends on")
    add("--released", type=Path, metavar="FILE", help="zegclip: make an adapter of the authors' checkpoint, untrained")
    add("--count", action="store_true", help="zegclip: print parameters and GMACs of the preset, and train nothing")
    add("--query-decoder", type=Path, metavar="FILE", help="pading: a stored one, in place of training it")
    add("--decoder-steps", type=int, help="pading: of the query decoder "
        f"(default: {QueryTrainingConfig.steps})")
    add("--steps", type=int, help="of the training, for pading of its generator (default: the preset's)")
    add("--minutes", type=float, default=math.inf, help="stop after this long; go on later with --resume")
    add("--batch", type=int, help="crops per step (default: the preset's)")
    add("--rate", type=float, help="learning rate (default: the preset's)")
    add("--precision", choices=("fp32", "bf16"), help="of the network in training (default: fp32)")
    add("--scenes", type=int, default=SCENES, help="drawn scenes to learn from (default: %(default)s)")
    add("--seed", type=int, default=0, help="of drawn scenes, weights and crops (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint in --output-dir, with the same settings")
    add("--json", action="store_true", help="one JSON line on the standard output, last")
    return parser


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
