"""`python -m worker`: load the model once, then work off the queue until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from redis import Redis

from plugin_config.cli.closed_output import run_command
from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.queue.jobs import look_queue, predict_queue
from plugin_config.settings import Settings
from worker.service import jobs as tasks
from worker.service.admission import Prediction
from worker.service.context import Resident
from worker.service.heartbeat import Keeper
from worker.service.memory import return_what_is_freed
from worker.service.pipeline import Pipeline, Stages
from worker.service.queue_worker import connect, work_off
from worker.service.trainer.learner import run_learner

log = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 10.0
# Less than a supervisor waits before it kills.
_GRACE_S = 5.0


def main(arguments: Sequence[str], *, stages: Callable[[Resident], Stages] = Prediction) -> int:
    """Run a worker with the settings of environment and command line. Returns 0; 2 when it could not start.

    Args:
        arguments: the command line.
        stages: makes what is done with a task; benchmarks put something quicker there.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s worker %(levelname)s %(message)s")
    for noisy in ("httpx", "rq.worker", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return_what_is_freed()
    try:
        settings, learns = _parse(arguments)
        settings.require("redis_url", "label_studio_url", "label_studio_api_key")
        keep_private(settings.state_path)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        resident = Resident(settings, connect(settings, timeout_s=_REDIS_TIMEOUT_S), learner=learns)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask worker: {error}\n")
        return 2
    if learns:
        run_learner(resident, connect(settings))
    else:
        run(resident, stages(resident), connect(settings))
    return 0


def run(resident: Resident, stages: Stages, connection: Redis) -> None:
    """Work off the queue with a keeper beside, through restarts of Redis; ends on SIGTERM or SIGINT."""
    settings = resident.settings
    pipeline = Pipeline(
        stages, capacity=2 * max(settings.drain_tasks, settings.batch), batch=settings.batch,
        stopping=resident.stopping, watch=resident.watch,
    )  # fmt: skip
    tasks.attach(resident, pipeline)
    keeper = Keeper(resident, pipeline)
    keeper.start()
    encoder = resident.segmenter.encoder
    log.info("ready: model %s on %s, images enter at %d px, worker %s",
             encoder.name, encoder.device, encoder.short_side, resident.name)  # fmt: skip
    try:
        queues = [predict_queue(connection), look_queue(connection)]
        work_off(queues, owner=resident.name, stopping=resident.stopping, watch=resident.watch)
    finally:
        pipeline.close(grace_s=_GRACE_S)
        keeper.stop()


def _parse(arguments: Sequence[str]) -> tuple[Settings, bool]:
    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="zeromask worker", description="One worker; its settings are in README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    told = "predict images, or learn from corrections in the background (default: %(default)s)"
    parser.add_argument("--queue", choices=("predict", "finetune"), default="predict", help=told)
    found = parser.parse_args(arguments)
    return replace(settings, model=found.model), found.queue == "finetune"


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
