"""How a process works off queues of jobs, through restarts of Redis."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now as utc_now
from rq.worker import DequeueStrategy

from plugin_config.background import DutyWatch
from plugin_config.queue.connection import is_damage, open_redis, unavailable
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import quarantine_keys
from plugin_config.queue.scripts import IS_NEWER
from plugin_config.settings import Settings
from worker.service.plain_jobs import JobFunctions, PlainJob, PlainQueue

log = logging.getLogger(__name__)

T = TypeVar("T")

_REDIS_AWAY_S, _AGAIN_S, _LONGEST_REST_S = 2.0, 0.2, 5.0
_LEFT_S = 1.0  # between two looks at jobs that are left to newer workers


class PlainWorker(SimpleWorker):
    """An RQ worker that runs jobs in its own process, where the model is, and only jobs of the contract.

    Everything else that RQ does for anyone who reaches Redis is left out: commands by publish and subscribe (stop,
    kill, shut down), suspension, groups, rate limits and the scheduler.

    A job about a project that is left to newer workers goes back behind all others as it is; see
    `plugin_config.queue.contract`.

    Attributes:
        functions: what runs the jobs.
        stopping: set by SIGTERM and SIGINT.
        met: the error that ended RQ's loop; None = it ended as it should.
    """

    queue_class = PlainQueue
    job_class = PlainJob
    log_job_description = False  # anyone's text
    functions: JobFunctions
    stopping: threading.Event
    met: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._left = set[str]()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT: give back tasks that have not been in the model, then end."""
        self.stopping.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """Take no commands."""

    def check_for_suspension(self, burst: bool) -> None:
        """Never suspended: `zeromask pause` is how a person stops work."""

    def run_maintenance_tasks(self) -> None:
        """Forget jobs of dead workers; an error in that stops no work."""
        try:
            self.clean_registries()  # type: ignore[no-untyped-call]
        except (RedisGone, RedisTimeout):
            raise
        except Exception:  # anything may stand in RQ's registries
            log.exception("RQ's registries cannot be cleaned; look who else writes to this Redis")
            _mend(self.connection)
        self.last_cleaned_at = utc_now()  # type: ignore[assignment]

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """See RQ."""
        return self._noting_errors(super().dequeue_job_and_maintain_ttl, timeout, max_idle_time)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """See RQ."""
        if isinstance(job, PlainJob):
            job.functions = self.functions
        if not self._noting_errors(self._leave_to_newer, job, queue):
            self._noting_errors(super().execute_job, job, queue)

    def _leave_to_newer(self, job: Job, queue: Queue) -> bool:
        """Put a job back where its project is left to newer workers. Returns whether it is.

        One that comes again before any other work did costs a rest: nothing else may be in the queues.
        """
        if not self.connection.eval(IS_NEWER, 1, ProjectKeys(job.args[0]["project"]).prefix):
            self._left.clear()
            return False
        pipe = self.connection.pipeline()
        queue.push_job_id(job.id, pipeline=pipe)
        pipe.lrem(queue.intermediate_queue_key, 0, job.id)
        pipe.execute()
        if job.id in self._left:
            self._left.clear()
            self.stopping.wait(_LEFT_S)
        self._left.add(job.id)
        return True

    def _noting_errors(self, work: Callable[..., T], *args: Any) -> T:
        try:
            return work(*args)
        except (RedisGone, RedisTimeout, StopRequested):
            raise
        except Exception as error:  # of whatever stands in Redis: `work_off` logs it and pauses
            self.met = error
            raise StopRequested from error


def connect(settings: Settings, *, timeout_s: float | None = None) -> Redis:
    """Connect to the Redis of the settings; `timeout_s` bounds every answer, None is for RQ, which waits for jobs.

    Raises:
        SettingsError: REDIS_URL is not the address of a Redis.
        QueueUnavailable: it does not answer.
    """
    connection = open_redis(
        settings.redis_url, connect_s=5, answer_s=timeout_s, health_check_s=30, ca_bundle=settings.ca_bundle
    )
    try:
        connection.ping()
    except RedisError as error:
        raise unavailable(error) from error
    return connection


def work_off(
    queues: Sequence[Queue], functions: JobFunctions, *, owner: str, stopping: threading.Event, watch: DutyWatch
) -> None:
    """Run the queues' jobs one after the other until `stopping`, which SIGTERM and SIGINT set. Queues take turns.

    Args:
        queues: the queues, over one connection.
        functions: name of a job -> what runs it.
        owner: the process' name, never used again by another.
        stopping: set when the process is to end.
        watch: reports faults.
    """
    connection = queues[0].connection
    duty = watch.duty("the work on jobs", longest_pause_s=_LONGEST_REST_S)
    plain = [PlainQueue(queue.name, connection=connection, serializer=JSONSerializer) for queue in queues]
    while not stopping.is_set():
        try:
            # RQ refuses a name that is still registered, which it is for a while after Redis went away.
            name = f"zeromask-{owner}-{uuid.uuid4().hex[:4]}".replace(".", "-")
            worker = PlainWorker(plain, connection=connection, serializer=JSONSerializer, name=name)
            worker.functions, worker.stopping = functions, stopping
            worker.work(logging_level="WARNING", dequeue_strategy=DequeueStrategy.ROUND_ROBIN)
            if worker.met is not None:
                raise worker.met
            stopping.wait(_AGAIN_S)
        except Exception as error:  # the last resort: tasks wait behind it
            if isinstance(error, RedisError) and not is_damage(error):
                log.warning("Redis went away (%s); trying again in %.0f s", error, _REDIS_AWAY_S)
                stopping.wait(_REDIS_AWAY_S)
                continue
            if duty.record_fault(error):
                log.exception("the work on jobs goes on")
            _mend(connection)
            stopping.wait(duty.pause_s())


def _mend(connection: Redis) -> None:
    try:
        quarantine_keys(connection)
    except RedisError as error:
        log.warning("Redis: nothing could be mended (%s)", error)
