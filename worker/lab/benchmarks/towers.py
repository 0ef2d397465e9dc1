"""`python -m worker.lab.benchmarks.towers`: cost of image towers and their readouts, on random weights.

The readouts of a family are timed in turn on the same image, round after round, so that a busy machine slows all of
them alike; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from rich.console import Console
from rich.progress import track

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.acceleration import matmul_speedup
from worker.segmentation.encoders.backbones import Backbone, dense_backbone
from worker.segmentation.encoders.readouts import READOUTS

FAMILIES = ("ViT-B-16", "RN50", "convnext_base", "EVA02-B-16", "PE-Core-B-16", "ViT-B-16-SigLIP2")
_PROXY_WIDTH = 384  # of DINO's small ViT


def main(arguments: Sequence[str]) -> int:
    """Build the families one by one, time their readouts, print the rows."""
    parser = argparse.ArgumentParser(description="Costs of image towers and readouts, on random weights.")
    parser.add_argument("--families", nargs="+", default=FAMILIES, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=448, help="pixels of the square image, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    found = parser.parse_args(arguments)
    torch.set_num_threads(found.threads)
    device = torch.device(found.device)
    names = track(found.families, "Timing", console=Console(stderr=True), disable=not sys.stderr.isatty())
    rows = [row for name in names for row in family_rows(name, found.side, found.rounds, device)]
    gains = {str(dtype): round(matmul_speedup(dtype, device), 3) for dtype in (torch.bfloat16, torch.float16)}
    if found.json:
        sys.stdout.write(json.dumps({"device": str(device), "threads": found.threads, "side": found.side,
                                     "rows": rows, "product_gain": gains}) + "\n")  # fmt: skip
        return 0
    for row in rows:
        sys.stdout.write("{family:18} {readout:10} {seconds:8.3f} s  x{ratio:.3f}  {grid}\n".format(**row))
    sys.stdout.write(f"products of matrices against float32: {gains}\n")
    return 0


@torch.inference_mode()
def family_rows(name: str, side: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Time each readout that a family has.

    Args:
        name: architecture of open_clip.
        side: of the square image, pixels; rounded to whole patches.
        rounds: measurements of each readout.
        device: of the tower.

    Returns:
        for each readout its median seconds and its ratio to the value readout.
    """
    visual = open_clip.create_model(name, pretrained=None, load_weights=False).visual.eval().to(device)
    towers = _towers(visual, name)
    patch = towers["value"].patch
    side = max(1, round(side / patch)) * patch
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    proxies = torch.randn(1, side // patch, side // patch, _PROXY_WIDTH, device=device)
    times: dict[str, list[float]] = {readout: [] for readout in towers}
    for number in range(rounds + 1):
        for readout, tower in towers.items():
            started = time.perf_counter()
            tower(pixels, proxies).sum().item()  # item() waits for the device
            if number:
                times[readout].append(time.perf_counter() - started)
    medians = {readout: statistics.median(seconds) for readout, seconds in times.items()}
    del visual, towers
    gc.collect()
    return [
        {"family": name, "readout": readout, "seconds": round(seconds, 4), "grid": f"{side // patch}x{side // patch}",
         "ratio": round(statistics.median(a / b for a, b in zip(times[readout], times["value"], strict=True)), 4)}
        for readout, seconds in medians.items()
    ]  # fmt: skip


def _towers(visual: Any, name: str) -> dict[str, Backbone]:
    towers: dict[str, Backbone] = {}
    for readout in (name for name, one in READOUTS.items() if not one.stitched):  # in one pass these are as the others
        try:
            towers[readout] = dense_backbone(visual, name, readout=readout, proxies=True)
        except ModelUnavailable:  # the family lacks this readout
            if readout == "value":
                raise
    return towers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
