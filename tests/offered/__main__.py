"""`python -m tests.offered`: the whole round with a recipe trained on the drawn world; --store keeps its figures.

25 or more drawn tasks are corrected in a real Label Studio. `zeromask train` trains LSeg on other scenes, and `zeromask
offer` has it judged; with --by-learner the learner trains the recipe beside `quick`, and is killed once in the middle.
Then a label is added that was never trained with, and a rollback ends it.
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
from tests.faults.stand import Serving, Stand, label_studio, stand
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
from tests.offered.learned import LEARNER, learn_beside_quick
from worker.lab.dense_data import PAIRS, WORDS, drawn_set

_RESULTS = ROOT / "docs" / "results"
_ADDED = {WORDS: "heart", PAIRS: "orange striped shape"}  # never trained with, and not among the labels at first
_WORKER = "worker-1"


@dataclass
class Running:
    """A Label Studio that was started elsewhere."""

    url: str


def main() -> int:
    """Run the round; returns 0 where everything but the verdict went as it must: the verdict may be either."""
    parser = argparse.ArgumentParser(prog="python -m tests.offered", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="lseg", help="that is trained (default: %(default)s)")
    parser.add_argument("--model", default="builtin", help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--data", default=WORDS, choices=tuple(_ADDED), help="drawn scenes (default: %(default)s)")
    parser.add_argument("--by-learner", action="store_true", help="ZEROMASK_RECIPE trains it, instead of `zeromask "
                        "train` and `zeromask offer`")  # fmt: skip
    parser.add_argument("--corrected", type=int, default=48, help="tasks that are corrected (default: %(default)s)")
    parser.add_argument("--free", type=int, default=12, help="tasks that are not (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of `zeromask train` (default: %(default)s)")
    parser.add_argument("--adapter", type=Path, help="a folder that is trained already")
    parser.add_argument("--url", default="", help="of a Label Studio of the tests that runs already")
    parser.add_argument("--store", action="store_true", help="keep the figures in docs/results")
    options = parser.parse_args()
    with stop_on_signals(), ExitStack() as held:
        server: Serving = Running(options.url) if options.url else held.enter_context(label_studio())
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="zm-offer-"))
        told = measure(server, options, Path(folder))
    line = json.dumps(told)
    if options.store:
        (_RESULTS / _file(options)).write_text(json.dumps(told, indent=1) + "\n")
    sys.stdout.write(line + "\n")
    return 0


def _file(options: argparse.Namespace) -> str:
    if options.by_learner:
        return f"{options.recipe}_service.json"
    return "offer.json" if options.recipe == "lseg" else f"{options.recipe}_offer.json"


def measure(server: Serving, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The round, as JSON."""
    data, added = drawn_set(options.data, scenes=options.corrected + options.free), _ADDED[options.data]
    labels = [label for label in data.labels if label != added]
    corrected = range(options.corrected)
    free = range(options.corrected, options.corrected + options.free)
    images = [data.test[number] for number in (*corrected, *free)]
    recipe, every = (options.recipe, options.corrected) if options.by_learner else ("quick", 1000)
    with stand(server, learners=1, reconcile_s=3600.0, model=options.model, recipe=recipe, finetune_every=every) as it:
        trained = None if options.adapter or options.by_learner else _train(it, options, folder / "run")
        made = DrawnProject.make(it.house, images, data.labels, config_of(labels))
        made.wait_stored(it, [*corrected, *free], made.served_version(it))
        before, memory = made.mean_iou(it.house, free, labels), memory_mb(it, _WORKER)
        wait_learner(it)
        made.correct(it.house, corrected, labels)
        if options.by_learner:
            found = learn_beside_quick(it, made, options.recipe, free)
        else:
            found = _offer(it, made, options.adapter or folder / "run")
        verdict = found["verdict"]
        predicted_s = made.wait_stored(it, free, made.served_version(it))
        after = made.mean_iou(it.house, free, labels)
        it.house.supervisor.end(LEARNER)  # nobody learns the label that is added
        body = {"label_config": config_of(data.labels)}
        it.house.label_studio.request("PATCH", f"/api/projects/{made.project}/", json=body)
        made.wait_stored(it, free, current_version(it.house, made.project, adapter=verdict["served"]))
        told = {
            "command": "python -m tests.offered " + " ".join(sys.argv[1:]), "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{platform.machine()}", "training": trained, "corrected": options.corrected, **found,
            "predicted_again_s": round(predicted_s, 1),
            "mean_iou_of_stored_masks": {"zero_shot": round(before, 3), "served": round(after, 3)},
            "added_label": {"label": added, "mean_iou": round(made.mean_iou(it.house, free, [added]), 3),
                            "tasks_with_it": _showing(made, it.house.label_studio, free, added)},
            "worker_memory_mb": {"zero_shot": round(memory), "served": round(memory_mb(it, _WORKER))},
        }  # fmt: skip
        if verdict["served"] != ZEROSHOT:
            told["rollback"] = command(it, "rollback", str(made.project), ZEROSHOT).strip()
            made.wait_stored(it, free, current_version(it.house, made.project, adapter=ZEROSHOT))
    return told


def _train(it: Stand, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    asked = ["train", "--recipe", options.recipe, "--data", options.data, "--steps", str(options.steps), "--model",
             options.model, "--output-dir", str(folder), "--json"]  # fmt: skip
    trained: dict[str, Any] = json.loads(command(it, *asked))
    del trained["adapter"]  # a folder of this run
    return trained


def _offer(it: Stand, made: DrawnProject, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    verdict = offer(it, made.project, folder)
    judged_s = time.monotonic() - started
    versions = json.loads(command(it, "versions", str(made.project), "--json"))
    figures = versions["contenders"]["offered"]["verdict"]["figures"]
    return {"verdict": verdict, "figures": figures, "judged_s": round(judged_s, 1)}


def _showing(made: DrawnProject, api: Any, numbers: range, label: str) -> int:
    """How many of these tasks have a mask of a label."""
    predictions = [api.predictions(made.ids[number])[0] for number in numbers]
    return sum(bool(mask_of(row, label, made.images[0].truth.shape).any()) for row in predictions)


if __name__ == "__main__":
    sys.exit(main())
