"""Draw docs/images/pading.png: what is found in drawn scenes with things whose labels training never showed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plugin_config.closed_output import run_command
from plugin_config.errors import EnvironmentBroken, ZeromaskError
from plugin_config.settings import Settings
from worker.lab.dense_data import SCENES
from worker.lab.evaluation.things import ThingsEvaluator
from worker.lab.metrics import PanopticSegment
from worker.lab.pading_rows import FULL, STORED_DECODER, TRAINING_FREE, PadingStudy
from worker.lab.results import ROOT
from worker.lab.things_data import PanopticSet, things_set
from worker.learning.proposals.decoder_files import load_query_decoder
from worker.overlay import Painting, draw_sheet
from worker.segmentation.segmenter import Segmenter

_COLUMNS = {"truth": "", "training-free": TRAINING_FREE, "GMMN": "gmmn", "full model": FULL}
"""Titles, and the rows of `pading_rows` that they show."""

_SCENES, _LEAST_UNSEEN = 6, 2


def scenes_with_unseen(data: PanopticSet) -> list[int]:
    """The first six test scenes with two things of unseen labels or more: whatever is found in them."""
    found = []
    for number in range(len(data.test)):
        unseen = [one for one in data.test[number].segments if one.index in data.unseen]
        if len(unseen) >= _LEAST_UNSEEN:
            found.append(number)
        if len(found) == _SCENES:
            break
    return found


def main(arguments: Sequence[str]) -> int:
    """Train the two classifiers and draw. Returns 0; 2 when it could not."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.pading_picture", description="Draw docs/images/"
                                     "pading.png.")  # fmt: skip
    add = parser.add_argument
    add("--query-decoder", type=Path, default=STORED_DECODER, metavar="FILE", help="default: the stored one")
    add("--scenes", type=int, default=SCENES, help="drawn to learn from, and to choose from (default: %(default)s)")
    add("--steps", type=int, help="of the generators (default: the preset's)")
    add("--output", type=Path, default=ROOT / "docs" / "images" / "pading.png", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        settings = replace(Settings.from_env(os.environ), model="builtin")
        segmenter = Segmenter.from_settings(settings, model="builtin")
        decoder = load_query_decoder(options.query_decoder, segmenter)
        data = things_set(scenes=options.scenes)
        study = PadingStudy(segmenter, decoder, data, seed=0, steps=options.steps)
        paintings, names = _painted(ThingsEvaluator(segmenter, decoder, data), study)
        sheet = draw_sheet(paintings, names, columns=len(_COLUMNS), titles=tuple(_COLUMNS))
        sheet.save(options.output)
    except ZeromaskError as error:
        sys.stderr.write(f"pading_picture: {error}\n")
        return 2
    except OSError as error:
        problem = f"it cannot be written ({error})"
        broken = EnvironmentBroken(f"file {options.output}", problem, "Name another --output.")
        sys.stderr.write(f"pading_picture: {broken}\n")
        return 2
    sys.stdout.write(f"{options.output}\n")
    return 0


def _painted(evaluator: ThingsEvaluator, study: PadingStudy) -> tuple[list[Painting], list[str]]:
    """The paintings, scene by scene, and the labels that they show, unseen ones marked."""
    data = evaluator.data
    adapters = {row: study.adapter(row) for row in _COLUMNS.values() if row}
    names = [f"{label} (unseen)" if k in data.unseen else label for k, label in enumerate(data.labels)]
    paintings = []
    for number in scenes_with_unseen(data):
        image = evaluator.look(number)[0]
        for row in _COLUMNS.values():
            segments: Sequence[PanopticSegment] = image.segments
            if row:
                segments = evaluator.segments(number, adapters[row])[1]
            masks = [(names[one.index], one.mask) for one in sorted(segments, key=lambda one: one.index in data.things)]
            paintings.append(Painting(image.image, masks))
    shown = {name for painting in paintings for name, _ in painting.masks}
    return paintings, [name for name in names if name in shown]


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
