"""RQ jobs as this project writes them, and no others: a forged job is refused before RQ reads any of it.

A job of RQ may name functions to import when it ends, addresses to call, jobs that depend on it, repetitions and much
more. Ours have none of these, so a job's hash is checked field by field, and a job with any other content is treated as
if it did not exist. No module is imported by a job's name: the worker is given one function for each name.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from plugin_config.errors import EnvironmentBroken, JobError
from plugin_config.queue.jobs import (
    ALLOWED_FUNCTIONS,
    DRAIN_JOB,
    JOB_TIMEOUT_S,
    LEARN_JOB,
    LEARN_TIMEOUT_S,
    REFRESH_JOB,
    DrainProject,
    LearnProject,
    ProjectJob,
    RefreshProject,
)

log = logging.getLogger(__name__)

_CONTRACT: Mapping[str, tuple[type[ProjectJob], int]] = {
    DRAIN_JOB: (DrainProject, JOB_TIMEOUT_S),
    REFRESH_JOB: (RefreshProject, JOB_TIMEOUT_S),
    LEARN_JOB: (LearnProject, LEARN_TIMEOUT_S),
}
_DATES = frozenset({"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"})
_TEXTS = frozenset({"origin", "description", "worker_name"})
_EMPTY = frozenset({"success_callback_name", "failure_callback_name", "stopped_callback_name", "group_id"})
_NUMBERS = {"timeout": None, "result_ttl": 0, "failure_ttl": 86400}
_KNOWN = frozenset({"data", "status", *_DATES, *_TEXTS, *_EMPTY, *_NUMBERS})
_MOST_BYTES = 4096  # of a field; ours have some hundred
_REFUSED_KEPT_S = 86400


class RefusedJob(NoSuchJobError):
    """A job that this project did not write. RQ treats it as one that does not exist."""


JobFunctions = Mapping[str, Callable[[Mapping[str, Any]], None]]
"""The name of a job in Redis -> the function that runs it, which takes the job's one argument."""


class PlainJob(Job):
    """A job whose hash is checked before it is read.

    Attributes:
        functions: what runs the jobs; set by the worker right before it runs this one.
    """

    functions: JobFunctions = MappingProxyType({})

    @property
    def func(self) -> Callable[..., Any]:
        """The function that runs this job.

        Raises:
            EnvironmentBroken: this process runs no jobs of this name.
        """
        name = str(self.func_name)
        if name not in self.functions:
            remedy = "Start `zeromask worker` for predictions and `zeromask worker --queue finetune` for learning."
            raise EnvironmentBroken("worker", f"runs no jobs named {name[:80]!r}", remedy)
        return self.functions[name]

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Read a job from its hash.

        Raises:
            RefusedJob: it is not one of this project's.
        """
        try:
            check_hash(raw_data)
            return super().restore(raw_data)
        except (JobError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            log.error("job %s refused: %s", self.id, error)
            self.connection.expire(self.key, _REFUSED_KEPT_S)
            raise RefusedJob(f"job {self.id}") from error


class PlainQueue(Queue):
    """A queue that returns such jobs only, and skips ids that are not text."""

    job_class = PlainJob

    @classmethod
    def lpop(cls, queue_keys: Any, timeout: int | None, connection: Redis | None = None) -> Any:
        """See `rq.Queue`: the next id, of those that are text."""
        while True:
            found = super().lpop(queue_keys, timeout, connection=connection)
            if found is None or _is_text(found[1]):
                return found

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """See `rq.Queue`: the next id, of those that are text."""
        while True:
            found = super().lmove(connection, queue_key, timeout)
            if found is None or _is_text(found[1]):
                return found
            connection.lrem(f"{queue_key}:intermediate", 0, found[1])

    @classmethod
    def _fetch_dequeued_job(cls, connection: Redis, queue_key: str, job_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._fetch_dequeued_job(connection, queue_key, job_id, *args, **kwargs)
        except (ValueError, TypeError) as error:  # RQ allows few characters in an id
            log.error("job %.80r refused: %s", job_id, error)
        except ResponseError as error:  # a key of another kind than a job's
            log.error("job %.80r refused: %s", job_id, error)
            connection.expire(Job.key_for(job_id), _REFUSED_KEPT_S)
        return None


def check_hash(raw: Mapping[bytes, bytes]) -> None:
    """Check a job's hash.

    Raises:
        JobError: it holds anything that this project does not write.
    """
    try:
        row = {name.decode(): value for name, value in raw.items()}
    except ValueError as error:
        raise _refusal("a field whose name is no text") from error
    for name, value in row.items():
        if name not in _KNOWN:
            raise _refusal(f"the field {name[:40]!r}")
        if len(value) > _MOST_BYTES:
            raise _refusal(f"{len(value)} bytes in {name}")
        if name in _EMPTY and value:
            raise _refusal(f"a {name.replace('_', ' ')}")
    if not all(row.get(name) for name in ("data", "status", *_NUMBERS)):
        raise _refusal("too few fields")
    function = _called(row["data"])
    for name, wanted in {**_NUMBERS, "timeout": _CONTRACT[function][1]}.items():
        if row[name] != str(wanted).encode():
            raise _refusal(f"{row[name][:40]!r} as {name}")
    if row["status"] not in {status.value.encode() for status in JobStatus}:
        raise _refusal(f"{row['status'][:40]!r} as status")


def _called(data: bytes) -> str:
    """The name of the function a job calls, after a check of the name and of the one argument."""
    unpacked = zlib.decompressobj()
    try:
        called = json.loads(unpacked.decompress(data, _MOST_BYTES))
    except (zlib.error, ValueError, RecursionError) as error:
        raise _refusal("data that is not packed JSON") from error
    if unpacked.unconsumed_tail or not isinstance(called, list) or len(called) != 4:
        raise _refusal("data that is no call")
    function, instance, arguments, named = called
    if not isinstance(function, str) or function not in ALLOWED_FUNCTIONS:
        raise _refusal(f"a call of {str(function)[:80]!r}, which is not one of this project's functions")
    if instance is not None or named != {} or not isinstance(arguments, list) or len(arguments) != 1:
        raise _refusal("other arguments than one")
    _CONTRACT[function][0].from_json(arguments[0])
    return function


def _refusal(what: str) -> JobError:
    return JobError("job", f"holds {what}", "Jobs are made by the backend and the worker only.")


def _is_text(name: Any) -> bool:
    try:
        bytes(name).decode()
    except ValueError:
        log.error("job %.80r refused: its id is no text", name)
        return False
    return True
