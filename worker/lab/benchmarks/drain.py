"""100,000 tasks or so through a real worker that computes nothing: Redis, RQ, leases, the pipeline, posts by HTTP."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from plugin_config.model_version import ModelVersion
from plugin_config.queue.jobs import TaskRef
from plugin_config.vocabulary import parse_vocabulary
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import PROJECT, bench_services, blotches, wait_drained
from worker.label_studio.images import Picture
from worker.service.batching import BatchSize
from worker.service.stages import PredictionStages
from worker.service.turns import DrawnTask, EmbeddedTask, FetchedTask, ImageTurn

_STUB = "worker.lab.benchmarks.drain"
_DRAIN_TASKS = 32


class StubbedPixels(PredictionStages):
    """The worker's stages without fetching and without a model; leases and posts are the real ones."""

    def fetch(self, turn: ImageTurn) -> FetchedTask:
        """Return an image of one pixel."""
        return FetchedTask(turn, Picture(np.zeros((1, 1, 3), dtype=np.uint8), (1, 1)))

    def embed(self, batch: Sequence[FetchedTask], size: BatchSize) -> list[EmbeddedTask | ImageTurn | DrawnTask]:
        """Return no embeddings."""
        size.took(len(batch), 0.0)
        no_embedding: Any = None
        return [EmbeddedTask(item.turn, item.picture, no_embedding, item.classes) for item in batch]

    def draw(self, embedded: EmbeddedTask) -> ImageTurn | DrawnTask:
        """Return one small box."""
        box = {"x": 10, "y": 10, "width": 10, "height": 10, "rotation": 0, "rectanglelabels": ["red shape"]}
        region = {"id": str(embedded.leased.ref.task), "type": "rectanglelabels", "from_name": "brush",
                  "to_name": "image", "value": box}  # fmt: skip
        return embedded.turn.drawn([region], 0.5)


def post_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Drain `tasks` tasks of one project by one worker that posts to a counting server.

    Returns:
        post_seconds, posted_per_s: seconds until the queue was empty, and tasks over that.
        posted, posted_twice, not_posted: numbers of predictions and tasks.
    """
    with bench_services(tasks=tasks, picture=blotches(8, 8), model="builtin", drain_tasks=_DRAIN_TASKS) as services:
        services.start_workers(1, _STUB)  # before: its start is not the queue's cost
        version = str(ModelVersion.of(services.settings, parse_vocabulary(CONFIG)))
        started = time.perf_counter()
        services.pending.add(PROJECT, [TaskRef(version, task) for task in range(1, tasks + 1)])
        services.pending.ensure_drains(PROJECT)
        wait_drained(services, [PROJECT], tasks, console)
        seconds = time.perf_counter() - started
        posts = services.counted()
    return {"post_seconds": seconds, "posted_per_s": posts["tasks"] / seconds, "posted": posts["posts"],
            "posted_twice": posts["duplicated"], "not_posted": tasks - posts["tasks"]}  # fmt: skip


if __name__ == "__main__":
    from worker.__main__ import main

    sys.exit(main(sys.argv[1:], stages=StubbedPixels))
