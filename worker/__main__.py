"""`python -m worker`: load the model once, then work off the queue until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis
import torch
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from plugin_config.errors import QueueUnavailable, ZeromaskError
from plugin_config.jobs import ALLOWED_FUNCTIONS, predict_queue
from plugin_config.settings import Settings
from worker import tasks
from worker.resident import Keeper, Resident

log = logging.getLogger(__name__)


class AllowListWorker(SimpleWorker):
    """An RQ worker that runs jobs in its own process, where the model is, and only the functions of the contract:
    a JSON job may still name `os.system`.
    """

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run an allowed job; put any other aside as failed, unread."""
        if job.func_name in ALLOWED_FUNCTIONS:
            super().execute_job(job, queue)
            return
        log.error("job %s refused: %r is not one of this project's functions", job.id, job.func_name)
        self.prepare_job_execution(job)
        self.handle_job_failure(job=job, queue=queue, exc_string="function is not on the allow-list")


def main(arguments: Sequence[str]) -> int:
    """Run a worker with the settings of environment and command line. Returns 0; 2 when it could not start."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s worker %(levelname)s %(message)s")
    for noisy in ("httpx", "rq.worker", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = _parse(arguments).require("redis_url", "label_studio_url", "label_studio_api_key")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        connection = connect(settings)
        resident = Resident(settings, connection)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask worker: {error}\n")
        return 2
    run(resident, connection)
    return 0


def connect(settings: Settings) -> Redis:
    """Open the Redis of the settings.

    Raises:
        QueueUnavailable: it does not answer, or REDIS_URL is no address.
    """
    try:
        connection = redis.from_url(settings.redis_url, socket_connect_timeout=5, health_check_interval=30)
        connection.ping()
    except (RedisError, ValueError) as error:
        raise QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.") from error
    return connection


def run(resident: Resident, connection: Redis, **work_options: Any) -> None:
    """Work off the queue with a keeper beside; ends on SIGTERM or SIGINT after the job at hand."""
    tasks.attach(resident)
    keeper = Keeper(resident)
    keeper.start()
    encoder = resident.segmenter.encoder
    log.info("ready: model %s on %s, images enter at %d px, worker %s",
             encoder.name, encoder.device, encoder.short_side, resident.name)  # fmt: skip
    worker = AllowListWorker([predict_queue(connection)], connection=connection, serializer=JSONSerializer,
                             name=f"zeromask-{resident.name}".replace(".", "-"))  # fmt: skip
    try:
        worker.work(logging_level="WARNING", **work_options)
    finally:
        keeper.stop()


def _parse(arguments: Sequence[str]) -> Settings:
    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="zeromask worker", description="One worker; its settings are in README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    return replace(settings, model=parser.parse_args(arguments).model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
