"""`python -m tests.offered`: the whole round with LSeg trained on the drawn world; --store keeps its figures.

25 or more drawn tasks are corrected in a real Label Studio, `zeromask train` trains LSeg on other scenes, `zeromask
offer` has it judged, a label is added that was never trained with, and a rollback ends it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugin_config.local.supervisor import stop_on_signals
from plugin_config.model_version import ZEROSHOT
from tests.faults.stand import Serving, label_studio, stand
from tests.house import current_version
from tests.offered.drawn_round import (
    ROOT,
    DrawnProject,
    command,
    config_of,
    mask_of,
    memory_mb,
    offer,
    wait_learner,
)
from worker.lab.dense_data import drawn_set

RESULT = ROOT / "docs" / "results" / "offer.json"
_ADDED = "heart"  # never trained with, and not among the labels at first
_WORKER = "worker-1"


@dataclass
class Running:
    """A Label Studio that was started elsewhere."""

    url: str


def main() -> int:
    """Run the round; returns 0 where everything but the verdict went as it must: the verdict may be either."""
    parser = argparse.ArgumentParser(prog="python -m tests.offered", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corrected", type=int, default=48, help="tasks that are corrected (default: %(default)s)")
    parser.add_argument("--free", type=int, default=12, help="tasks that are not (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of the training (default: %(default)s)")
    parser.add_argument("--adapter", type=Path, help="a folder that is trained already")
    parser.add_argument("--url", default="", help="of a Label Studio of the tests that runs already")
    parser.add_argument("--store", action="store_true", help="keep the figures in docs/results/offer.json")
    options = parser.parse_args()
    with stop_on_signals(), ExitStack() as held:
        server: Serving = Running(options.url) if options.url else held.enter_context(label_studio())
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="zm-offer-"))
        told = measure(server, options, Path(folder))
    line = json.dumps(told)
    if options.store:
        RESULT.write_text(json.dumps(told, indent=1) + "\n")
    sys.stdout.write(line + "\n")
    return 0


def measure(server: Serving, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The round, as JSON."""
    data = drawn_set("drawn:words", scenes=options.corrected + options.free)
    labels = [label for label in data.labels if label != _ADDED]
    corrected = range(options.corrected)
    free = range(options.corrected, options.corrected + options.free)
    images = [data.test[number] for number in (*corrected, *free)]
    with stand(server, learners=1, reconcile_s=3600.0, finetune_every=1000) as it:
        train = ["train", "--recipe", "lseg", "--data", "drawn:words", "--steps", str(options.steps), "--model",
                 "builtin", "--output-dir", str(folder / "run"), "--json"]  # fmt: skip
        trained = None if options.adapter else json.loads(command(it, *train))
        if trained is not None:
            del trained["adapter"]  # a folder of this run
        made = DrawnProject.make(it.house, images, data.labels, config_of(labels))
        made.wait_stored(it, [*corrected, *free], made.served_version(it))
        before, memory = made.mean_iou(it.house, free, labels), memory_mb(it, _WORKER)
        made.correct(it.house, corrected, labels)
        wait_learner(it)
        started = time.monotonic()
        verdict = offer(it, made.project, options.adapter or folder / "run")
        judged_s = time.monotonic() - started
        predicted_s = made.wait_stored(it, free, made.served_version(it))
        after = made.mean_iou(it.house, free, labels)
        body = {"label_config": config_of(data.labels)}
        it.house.label_studio.request("PATCH", f"/api/projects/{made.project}/", json=body)
        made.wait_stored(it, free, current_version(it.house, made.project, adapter=verdict["served"]))
        versions = json.loads(command(it, "versions", str(made.project), "--json"))
        told = {
            "command": "python -m tests.offered " + " ".join(sys.argv[1:]), "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{platform.machine()}", "training": trained, "corrected": options.corrected,
            "verdict": verdict, "figures": versions["contenders"]["offered"]["verdict"]["figures"],
            "judged_s": round(judged_s, 1), "predicted_again_s": round(predicted_s, 1),
            "mean_iou_of_stored_masks": {"zero_shot": round(before, 3), "served": round(after, 3)},
            "added_label": {"label": _ADDED, "mean_iou": round(made.mean_iou(it.house, free, [_ADDED]), 3),
                            "tasks_with_it": _showing(made, it.house.label_studio, free)},
            "worker_memory_mb": {"zero_shot": round(memory), "served": round(memory_mb(it, _WORKER))},
        }  # fmt: skip
        if verdict["promoted"]:
            told["rollback"] = command(it, "rollback", str(made.project)).strip()
            made.wait_stored(it, free, current_version(it.house, made.project, adapter=ZEROSHOT))
    return told


def _showing(made: DrawnProject, api: Any, numbers: range) -> int:
    """How many of these tasks have a mask of the added label."""
    predictions = [api.predictions(made.ids[number])[0] for number in numbers]
    return sum(bool(mask_of(row, _ADDED, made.images[0].truth.shape).any()) for row in predictions)


if __name__ == "__main__":
    sys.exit(main())
