"""`python -m worker`: load the model once, then work off the queue until a signal stops it."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image
from redis import Redis

from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.settings import Settings
from worker.service.queue_worker import connect

if TYPE_CHECKING:
    from worker.service.context import WorkerContext
    from worker.service.pipeline import Stages

log = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 10.0
_ARENA_MAX, _ARENAS = -8, 2  # glibc's M_ARENA_MAX
_BLOCK_BYTES = 64 << 20  # more than glibc ever keeps for later, 32 MB


def main(arguments: Sequence[str], *, stages: Callable[[WorkerContext], Stages] | None = None) -> int:
    """Run a worker with the settings of environment and command line. Returns 0; 2 when it could not start.

    Args:
        arguments: the command line.
        stages: makes the stages of the pipeline, `PredictionStages` by default; benchmarks pass quicker ones.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s worker %(levelname)s %(message)s")
    for noisy in ("httpx", "rq.worker", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _limit_freed_memory()
    try:
        settings, work = _parse(arguments)
        settings.require("redis_url", "label_studio_url", "label_studio_api_key")
        run = _with_model(settings, connect(settings, timeout_s=_REDIS_TIMEOUT_S), work, stages)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask worker: {error}\n")
        return 2
    run()
    return 0


def _with_model(
    settings: Settings, redis: Redis, work: str, stages: Callable[[WorkerContext], Stages] | None
) -> Callable[[], object]:
    """Load the model; returns what works off the queue.

    Raises:
        SettingsError, ModelUnavailable, VersionsUnavailable: as `check_recipe` and `WorkerContext`.
    """
    # Imported here: torch and the libraries of the model take seconds, and what is missing is told before.
    import torch

    from worker.service.context import WorkerContext
    from worker.service.interactive import run_clicker
    from worker.service.stages import PredictionStages
    from worker.service.trainer.learner import run_learner
    from worker.service.trainer.second_recipe import check_recipe
    from worker.service.worker import run_worker

    learner = work == "finetune"
    if learner:
        check_recipe(settings.recipe)
    keep_private(settings.state_path)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    context = WorkerContext(settings, redis, learner=learner)
    if learner:
        return lambda: run_learner(context, connect(settings))
    if work == "interactive":
        return lambda: run_clicker(context)
    return lambda: run_worker(context, (stages or PredictionStages)(context), connect(settings))


def _limit_freed_memory() -> None:
    """Let memory that decoding threads have freed go back to the system. Call it before they start.

    By default glibc gives every thread a heap of its own and keeps there what Pillow frees in blocks of 16 MB: decoding
    16 pictures of 100 megapixels one after the other in 16 threads took 5.2 GB, and 1.1 GB this way.
    """
    Image.core.set_block_size(_BLOCK_BYTES)  # type: ignore[attr-defined]  # as PILLOW_BLOCK_SIZE in the environment
    try:
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
    except (OSError, AttributeError) as error:  # another C library, with other habits
        log.info("the number of heaps is left as it is (%s)", error)


def _parse(arguments: Sequence[str]) -> tuple[Settings, str]:
    settings = Settings.from_env(os.environ)
    about = "One worker; its settings are in docs/reference/settings.md."
    parser = argparse.ArgumentParser(prog="zeromask worker", description=about)
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    queue_help = "predict images, learn from corrections in the background, or answer clicks (default: %(default)s)"
    parser.add_argument("--queue", choices=("predict", "finetune", "interactive"), default="predict", help=queue_help)
    found = parser.parse_args(arguments)
    return replace(settings, model=found.model), str(found.queue)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
