"""How many true segments do proposals find? Recall at IoU 0.5 on seen and on unseen labels, for a trained decoder and
for the engine's own regions.

    python -m worker.lab.evaluation.proposal_recall --decoder query_decoder.safetensors --scenes 100
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import ZeromaskError
from plugin_config.settings import Settings
from worker.lab.things_data import PanopticImage, PanopticSet, things_set
from worker.learning.proposals.decoder_files import load_query_decoder
from worker.learning.proposals.engine_regions import engine_proposals
from worker.learning.proposals.entering import propose
from worker.learning.proposals.proposals import Proposals
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

LEAST_IOU = 0.5
"""IoU with a proposal at which a true segment counts as found."""

Propose = Callable[[NDArray[np.uint8]], Proposals]
"""(H, W, 3) uint8 RGB -> its proposals."""


def proposal_recall(
    propose_in: Propose, data: PanopticSet, images: Sequence[PanopticImage]
) -> Mapping[str, float | None]:
    """Recall of proposals.

    Args:
        propose_in: what proposes.
        data: whose labels.
        images: whose true segments are to be found.

    Returns:
        "seen", "unseen", "things" and "stuff": the share of true segments of such labels that a proposal has IoU 0.5
        or more with, to four digits, None where there are none; "proposals": the mean number of an image.
    """
    groups = {"seen": set(data.seen), "unseen": set(data.unseen), "things": set(data.things),
              "stuff": set(range(len(data.labels))) - data.things}  # fmt: skip
    found: dict[str, list[bool]] = {name: [] for name in groups}
    counts = []
    for one in images:
        proposals = propose_in(one.image)
        counts.append(len(proposals))
        drawn = inside(proposals, one.truth.shape)
        for segment in one.segments:
            hit = any(mask_iou(mask, segment.mask) >= LEAST_IOU for mask in drawn)
            for name, labels in groups.items():
                if segment.index in labels:
                    found[name].append(hit)
    shares = {name: round(float(np.mean(hits)), 4) if hits else None for name, hits in found.items()}
    return {**shares, "proposals": round(float(np.mean(counts)), 4)}


def inside(proposals: Proposals, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(Q, H, W) bool masks of proposals in the pixels of their image."""
    logits: Tensor = proposals.at_pixels((size[0], size[1]))
    return np.asarray((logits > 0).cpu().numpy())


@click.command()
@click.option("--decoder", type=click.Path(path_type=Path, dir_okay=False), help="Also of this decoder.")
@click.option("--scenes", default=100, show_default=True, help="Drawn test scenes.")
@click.option("--model", default="builtin", show_default=True, help="As the MODEL setting.")
def main(decoder: Path | None, scenes: int, model: str) -> None:
    """Print the recall of both sources on drawn:things as one JSON line."""
    try:
        segmenter = Segmenter.from_settings(Settings.from_env(os.environ), model=model)
        data = things_set(scenes=scenes)
        sources: dict[str, Propose] = {"engine": lambda image: engine_proposals(image, segmenter)}
        if decoder is not None:
            trained = load_query_decoder(decoder, segmenter)
            sources["decoder"] = lambda image: propose(image, trained, segmenter).proposals
        rows = {name: proposal_recall(source, data, data.test) for name, source in sources.items()}
    except ZeromaskError as error:
        sys.stderr.write(f"proposal_recall: {error}\n")
        raise SystemExit(2) from error
    click.echo(json.dumps({"data": data.name, "scenes": scenes, "iou": LEAST_IOU, **rows}))


if __name__ == "__main__":
    main()
