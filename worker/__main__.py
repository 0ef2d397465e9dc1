"""`python -m worker`: load the model once, then work off the queue until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.settings import Settings
from worker.service.admission import Prediction
from worker.service.context import Resident
from worker.service.memory import return_what_is_freed
from worker.service.pipeline import Stages
from worker.service.queue_worker import connect
from worker.service.trainer.learner import run_learner
from worker.service.worker import run_worker

_REDIS_TIMEOUT_S = 10.0


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
        run_worker(resident, stages(resident), connect(settings))
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Settings, bool]:
    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="zeromask worker", description="One worker; its settings are in README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    told = "predict images, or learn from corrections in the background (default: %(default)s)"
    parser.add_argument("--queue", choices=("predict", "finetune"), default="predict", help=told)
    found = parser.parse_args(arguments)
    return replace(settings, model=found.model), found.queue == "finetune"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
