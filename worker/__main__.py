"""`python -m worker`: load the model once, then work off the queue until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType

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
from worker.keeper import Keeper
from worker.pipeline import Pipeline, Stages
from worker.predict import Prediction
from worker.resident import Resident

log = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 10.0
_REDIS_AWAY_S = 2.0
# Less than a supervisor waits before it kills.
_GRACE_S = 5.0


class AllowListWorker(SimpleWorker):
    """An RQ worker that runs jobs in its own process, where the model is, and only the functions of the contract:
    a JSON job may still name `os.system`.
    """

    stopping: threading.Event

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT: what has not been in the model is given back, then the worker ends."""
        self.stopping.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run an allowed job; put any other aside as failed, unread."""
        if job.func_name in ALLOWED_FUNCTIONS:
            super().execute_job(job, queue)
            return
        log.error("job %s refused: %r is not one of this project's functions", job.id, job.func_name)
        self.prepare_job_execution(job)
        self.handle_job_failure(job=job, queue=queue, exc_string="function is not on the allow-list")


def main(arguments: Sequence[str], *, stages: Callable[[Resident], Stages] = Prediction) -> int:
    """Run a worker with the settings of environment and command line. Returns 0; 2 when it could not start.

    Args:
        arguments: the command line.
        stages: makes what is done with a task; benchmarks put something quicker there.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s worker %(levelname)s %(message)s")
    for noisy in ("httpx", "rq.worker", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = _parse(arguments).require("redis_url", "label_studio_url", "label_studio_api_key")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        resident = Resident(settings, connect(settings, timeout_s=_REDIS_TIMEOUT_S))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask worker: {error}\n")
        return 2
    run(resident, stages(resident), connect(settings))
    return 0


def connect(settings: Settings, *, timeout_s: float | None = None) -> Redis:
    """Open the Redis of the settings; `timeout_s` bounds every answer, None leaves that to RQ, which waits for jobs.

    Raises:
        QueueUnavailable: it does not answer, or REDIS_URL is no address.
    """
    try:
        connection = redis.from_url(
            settings.redis_url, socket_connect_timeout=5, socket_timeout=timeout_s, health_check_interval=30
        )
    except ValueError as error:  # its text may quote the password
        remedy = "Write redis://[:password@]host:port/0 and percent-encode signs such as / in the password."
        raise QueueUnavailable("setting REDIS_URL", "is not the address of a Redis", remedy) from error
    try:
        connection.ping()
    except RedisError as error:
        raise QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.") from error
    return connection


def run(resident: Resident, stages: Stages, connection: Redis) -> None:
    """Work off the queue with a keeper beside, through restarts of Redis; ends on SIGTERM or SIGINT."""
    settings = resident.settings
    pipeline = Pipeline(
        stages, capacity=2 * max(settings.drain_tasks, settings.batch), batch=settings.batch,
        stopping=resident.stopping,
    )  # fmt: skip
    tasks.attach(resident, pipeline)
    keeper = Keeper(resident, pipeline)
    keeper.start()
    encoder = resident.segmenter.encoder
    log.info("ready: model %s on %s, images enter at %d px, worker %s",
             encoder.name, encoder.device, encoder.short_side, resident.name)  # fmt: skip
    try:
        while not resident.stopping.is_set():
            try:
                _work(resident, connection)
            except (RedisError, QueueUnavailable) as error:
                log.warning("Redis went away (%s); trying again in %.0f s", error, _REDIS_AWAY_S)
                resident.stopping.wait(_REDIS_AWAY_S)
    finally:
        pipeline.close(grace_s=_GRACE_S)
        keeper.stop()


def _work(resident: Resident, connection: Redis) -> None:
    # RQ refuses a name that is still registered, which it is for a while after Redis went away.
    name = f"zeromask-{resident.name}-{uuid.uuid4().hex[:4]}".replace(".", "-")
    worker = AllowListWorker(
        [predict_queue(connection)], connection=connection, serializer=JSONSerializer, name=name
    )
    worker.stopping = resident.stopping
    worker.work(logging_level="WARNING")


def _parse(arguments: Sequence[str]) -> Settings:
    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="zeromask worker", description="One worker; its settings are in README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    return replace(settings, model=parser.parse_args(arguments).model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
