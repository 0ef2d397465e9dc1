"""How a process works off a queue of jobs, through restarts of Redis. It must not know what the jobs do."""

from __future__ import annotations

import logging
import threading
import uuid
from types import FrameType

import redis
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from plugin_config.errors import QueueUnavailable
from plugin_config.jobs import ALLOWED_FUNCTIONS
from plugin_config.settings import Settings

log = logging.getLogger(__name__)

_REDIS_AWAY_S = 2.0


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


def work_off(queue: Queue, *, owner: str, stopping: threading.Event) -> None:
    """Run the queue's jobs one after the other until `stopping`, which SIGTERM and SIGINT set.

    Args:
        queue: the queue.
        owner: the process' name, unique for ever.
        stopping: set when the process is to end.
    """
    while not stopping.is_set():
        try:
            # RQ refuses a name that is still registered, which it is for a while after Redis went away.
            name = f"zeromask-{owner}-{uuid.uuid4().hex[:4]}".replace(".", "-")
            worker = AllowListWorker([queue], connection=queue.connection, serializer=JSONSerializer, name=name)
            worker.stopping = stopping
            worker.work(logging_level="WARNING")
        except (RedisError, QueueUnavailable) as error:
            log.warning("Redis went away (%s); trying again in %.0f s", error, _REDIS_AWAY_S)
            stopping.wait(_REDIS_AWAY_S)
