"""How many true segments do proposals find? Recall at IoU 0.5 on seen and on unseen labels, for a trained query decoder
and for the engine's own regions.

    python -m worker.lab.evaluation.proposal_recall --decoder query_decoder.safetensors
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from plugin_config.errors import SettingsError, ZeromaskError
from plugin_config.settings import Settings
from worker.lab.dense_data import SCENES
from worker.lab.pading_rows import STORED_DECODER
from worker.lab.progress import shown
from worker.lab.results import EMPTY, RESULTS_FOLDER, ROOT, StoredResult, store_result, write_part
from worker.lab.things_data import PanopticImage, PanopticSet, things_set
from worker.learning.proposals.decoder_files import load_query_decoder
from worker.learning.proposals.engine_regions import engine_proposals
from worker.learning.proposals.entering import propose
from worker.learning.proposals.proposals import Proposals
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

LEAST_IOU = 0.5
"""IoU with a proposal at which a true segment counts as found."""

SOURCES: Mapping[str, str] = {"decoder": "the query decoder", "engine": "the engine's own regions, untrained"}
"""What proposes: its name, and what it is."""

GROUPS = ("seen", "unseen", "things", "stuff")
"""Labels that the recall is told of."""

STORED = RESULTS_FOLDER / "proposal_recall.json"
PAGE = ROOT / "docs" / "research" / "pading.md"
BEGIN = "<!-- Made of docs/results/proposal_recall.json by worker.lab.evaluation.proposal_recall --store. -->"
END = "<!-- The end of the recall. -->"

Propose = Callable[[NDArray[np.uint8]], Proposals]
"""(H, W, 3) uint8 RGB -> its proposals."""

Recall = Mapping[str, float | None]
"""See `proposal_recall`."""


def proposal_recall(
    propose_in: Propose, data: PanopticSet, images: Sequence[PanopticImage],
    report: Callable[[int], None] | None = None,
) -> Recall:  # fmt: skip
    """Recall of proposals.

    Args:
        propose_in: what proposes.
        data: whose labels.
        images: whose true segments are to be found.
        report: is told after each how many are done.

    Returns:
        For each of `GROUPS` the share of true segments of such labels that a proposal has IoU 0.5 or more with, to four
        digits, None where there are none; "proposals": the mean number of an image.
    """
    labels = {"seen": set(data.seen), "unseen": set(data.unseen), "things": set(data.things),
              "stuff": set(range(len(data.labels))) - data.things}  # fmt: skip
    found: dict[str, list[bool]] = {name: [] for name in GROUPS}
    counts = []
    for number, one in enumerate(images, start=1):
        proposals = propose_in(one.image)
        counts.append(len(proposals))
        drawn = inside(proposals, one.truth.shape)
        for segment in one.segments:
            hit = any(mask_iou(mask, segment.mask) >= LEAST_IOU for mask in drawn)
            for name in GROUPS:
                if segment.index in labels[name]:
                    found[name].append(hit)
        if report is not None:
            report(number)
    shares = {name: round(float(np.mean(hits)), 4) if hits else None for name, hits in found.items()}
    return {**shares, "proposals": round(float(np.mean(counts)), 4)}


def recall_of_sources(
    decoder: QueryDecoder, segmenter: Segmenter, data: PanopticSet, images: Sequence[PanopticImage], console: Console
) -> Mapping[str, Recall]:
    """Recall of both `SOURCES` on the same images.

    Args:
        decoder: trained on the model's tower.
        segmenter: the model.
        data: whose labels.
        images: whose true segments are to be found.
        console: where progress is shown.
    """
    sources: dict[str, Propose] = {
        "decoder": lambda image: propose(image, decoder, segmenter).proposals,
        "engine": lambda image: engine_proposals(image, segmenter),
    }
    found = {}
    for name, source in sources.items():
        with shown(console, f"Recall of {SOURCES[name]}", len(images)) as show:
            found[name] = proposal_recall(source, data, images, show)
    return found


def inside(proposals: Proposals, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(Q, H, W) bool masks of proposals in the pixels of their image."""
    logits: Tensor = proposals.at_pixels((size[0], size[1]))
    return np.asarray((logits > 0).cpu().numpy())


def table(found: Mapping[str, Recall]) -> str:
    """Format the recall of both sources for a person."""
    lines = [f"{f'recall at IoU {LEAST_IOU:g}':<38}{''.join(f'{name:>8}' for name in GROUPS)}   proposals of a scene"]
    for name, title in SOURCES.items():
        cells = "".join(f"{_cell(found[name][group]):>8}" for group in GROUPS)
        lines.append(f"{title:<38}{cells}   {found[name]['proposals']:.1f}")
    return "\n".join(lines) + "\n"


def recall_part(stored: StoredResult | None) -> str:
    """The table of the page, in Markdown; without a stored result it says that there is none."""
    if stored is None:
        return f"Recall of both sources of proposals: {EMPTY}."
    figures = stored.figures
    lines = [
        f"The share of true segments with which some proposal has an IoU of {figures['iou']:g} or more, on "
        f"{figures['scenes']} test scenes ({stored.date}):", "",
        f"| proposals of | {' | '.join(GROUPS)} | proposals of a scene |", f"|---|{len(GROUPS) * '---|'}---|",
    ]  # fmt: skip
    for name, title in SOURCES.items():
        found = figures[name]
        cells = " | ".join(_cell(found[group]) for group in GROUPS)
        lines.append(f"| {title} | {cells} | {found['proposals']:.1f} |")
    return "\n".join([*lines, "", "```", stored.command, "```"])


def _cell(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


@click.command()
@click.option("--decoder", type=click.Path(path_type=Path, dir_okay=False), default=STORED_DECODER,
              help="Query decoder (default: the one that PADing's rows stand on).")  # fmt: skip
@click.option("--scenes", default=SCENES, show_default=True, type=click.IntRange(min=1), help="Drawn test scenes.")
@click.option("--model", default="builtin", show_default=True, help="As the MODEL setting.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--store", is_flag=True, help="Write docs/results/proposal_recall.json, and the table of the page.")
def main(decoder: Path, scenes: int, model: str, as_json: bool, store: bool) -> None:
    """Measure the recall of a query decoder and of the engine's own regions on drawn:things."""
    try:
        if store and (decoder != STORED_DECODER or model != "builtin"):
            problem = "the page has the recall of the stored decoder on the builtin"
            raise SettingsError("--store", problem, "Leave --decoder and --model away.")
        found = _measure(decoder, scenes, model)
        if store:
            command = f"python -m worker.lab.evaluation.proposal_recall --scenes {scenes} --store"
            write_part(PAGE, BEGIN, END, recall_part(store_result(STORED, command, found)))
    except ZeromaskError as error:
        sys.stderr.write(f"proposal_recall: {error}\n")
        raise SystemExit(2) from error
    click.echo(json.dumps(found) if as_json else table(found), nl=as_json)


def _measure(decoder: Path, scenes: int, model: str) -> dict[str, Any]:
    settings = Settings.from_env(os.environ)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    segmenter = Segmenter.from_settings(settings, model=model)
    data = things_set(scenes=scenes)
    trained = load_query_decoder(decoder, segmenter)
    found = recall_of_sources(trained, segmenter, data, data.test, Console(stderr=True))
    return {"data": data.name, "scenes": scenes, "iou": LEAST_IOU, **found}


if __name__ == "__main__":
    main()
