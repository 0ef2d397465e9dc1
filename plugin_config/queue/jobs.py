"""The contract between backend and worker: what travels through Redis, as JSON and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from plugin_config.errors import JobError
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.contract import CONTRACT
from plugin_config.queue.keys import LEARN_QUEUES, PREDICT_QUEUES, REFRESH_QUEUES, SLOTS

MOST_ID = 2**63 - 1  # of a task or project: the largest id of a database
# Names of jobs, part of what is stored in Redis. They name no module: a worker has a table of them and imports nothing.
DRAIN_JOB = "worker.tasks.drain_project"
REFRESH_JOB = "worker.tasks.refresh_project"
LEARN_JOB = "worker.tasks.learn_project"
ALLOWED_FUNCTIONS = frozenset({DRAIN_JOB, REFRESH_JOB, LEARN_JOB})

# A drain takes a bounded number of tasks, so this long means that the worker hangs; leases show earlier that it died.
JOB_TIMEOUT_S = 600
LEARN_TIMEOUT_S = 4 * 3600

_REMEDY = "Jobs are made by the backend and the worker only; look who else writes to this Redis."


@dataclass(frozen=True, order=True)
class TaskRef:
    """One task wanted at one model version: the unit that is pending, leased, done or failed."""

    version: str
    task: int

    def __post_init__(self) -> None:
        if not self.version or "|" in self.version:
            raise JobError("task reference", f"version must be a name without '|', got {self.version!r}", _REMEDY)
        if type(self.task) is not int or not 0 < self.task <= MOST_ID:
            problem = f"task must be a positive int of at most 63 bits, got {str(self.task)[:40]!r}"
            raise JobError("task reference", problem, _REMEDY)

    def encode(self) -> str:
        """The member name in Redis."""
        return f"{self.version}|{self.task}"

    @classmethod
    def decode(cls, member: str) -> TaskRef:
        """Parse a member name.

        Raises:
            JobError: `encode` did not write it.
        """
        version, _, task = member.rpartition("|")
        if not task.isdecimal() or len(task) > len(str(MOST_ID)):
            raise JobError("task reference", f"must be 'version|task', got {member[:80]!r}", _REMEDY)
        return cls(version, int(task))


def parse_id(member: Any) -> int | None:
    """Parse the id of a task or project; None where this project would not have written it so."""
    try:
        found = int(member)
    except (ValueError, TypeError):
        return None
    return found if 0 < found <= MOST_ID and str(found).encode() == _as_bytes(member) else None


def parse_ref(member: Any) -> TaskRef | None:
    """Parse a task reference; None where this project would not have written it so."""
    try:
        found = TaskRef.decode(_as_bytes(member).decode())
    except (JobError, ValueError):
        return None
    return found if found.encode().encode() == _as_bytes(member) else None


def parse_text(member: Any) -> str | None:
    """Parse a text; None where it is no UTF-8."""
    try:
        return _as_bytes(member).decode()
    except ValueError:
        return None


@dataclass(frozen=True)
class ProjectJob:
    """A job about one project.

    Attributes:
        project: its id.
        least, most: bounds of each field, inclusive; every field is an int.
    """

    project: int

    least: ClassVar[Mapping[str, int]] = {"project": 1}
    most: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        _require_ints(self, least=self.least, most=self.most)

    def to_json(self) -> dict[str, Any]:
        """The job's only argument."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make a job of what Redis returned.

        Raises:
            JobError: a field is missing, unknown or of the wrong type.
        """
        return cls(**_fields(data, {item.name for item in fields(cls)}))


@dataclass(frozen=True)
class DrainProject(ProjectJob):
    """Take up to `limit` pending tasks of a project, predict and post them. Parallel drains have different slots."""

    slot: int
    limit: int

    least: ClassVar[Mapping[str, int]] = {"project": 1, "slot": 0, "limit": 1}
    most: ClassVar[Mapping[str, int]] = {"slot": SLOTS, "limit": 100_000}


@dataclass(frozen=True)
class RefreshProject(ProjectJob):
    """Read a project's labeling config and tasks again, and ask for the predictions its present version lacks."""


@dataclass(frozen=True)
class LearnProject(ProjectJob):
    """Check a project's corrections, and learn from them where there are new ones."""


def predict_queues(redis: Redis) -> list[Queue]:
    """The queues of drains: of this contract, which new jobs go to, then of older ones."""
    return _queues(PREDICT_QUEUES, redis)


def refresh_queues(redis: Redis) -> list[Queue]:
    """The queues of refreshes, apart from the drains: many requested refreshes delay no task. Order as above."""
    return _queues(REFRESH_QUEUES, redis)


def learn_queues(redis: Redis) -> list[Queue]:
    """The queues of the learners, in the order as above."""
    return _queues(LEARN_QUEUES, redis)


def predict_queue(redis: Redis) -> Queue:
    """The queue for new drains."""
    return predict_queues(redis)[0]


def refresh_queue(redis: Redis) -> Queue:
    """The queue for new refreshes."""
    return refresh_queues(redis)[0]


def learn_queue(redis: Redis) -> Queue:
    """The queue for new jobs of the learners."""
    return learn_queues(redis)[0]


def learn_job_id(project: int) -> str:
    """The RQ id of a project's learning job, always the same, so that it is in the queue once."""
    return f"learn-{project}" if CONTRACT == 1 else f"learn-{project}-{CONTRACT}"


@redis_errors
def enqueue_learning(queue: Queue, job: LearnProject) -> bool:
    """Queue a learning job; False when it is queued already.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    name = learn_job_id(job.project)
    if queue.connection.lpos(queue.key, name) is not None:
        return False
    if queue.connection.type(Job.key_for(name)) != b"hash":  # anything else in its place would make RQ fail
        queue.connection.delete(Job.key_for(name))
    queue.enqueue_call(
        LEARN_JOB, args=(job.to_json(),), timeout=LEARN_TIMEOUT_S, result_ttl=0, failure_ttl=86400,
        description=repr(job), job_id=name,
    )  # fmt: skip
    return True


def enqueue(queue: Queue, job: DrainProject | RefreshProject, *, first: bool = False, name: str | None = None) -> str:
    """Queue a job, ahead of all others when `first`, and return its RQ id, which is `name` where that is given. RQ
    keeps no result: predictions are in Label Studio.
    """
    function = DRAIN_JOB if isinstance(job, DrainProject) else REFRESH_JOB
    made = queue.enqueue_call(
        function, args=(job.to_json(),), timeout=JOB_TIMEOUT_S, result_ttl=0, failure_ttl=86400,
        description=repr(job), at_front=first, job_id=name,
    )  # fmt: skip
    return str(made.id)


def _queues(names: Sequence[str], redis: Redis) -> list[Queue]:
    """JSON, because unpickling would let anyone who reaches Redis run code."""
    return [Queue(name, connection=redis, serializer=JSONSerializer) for name in names]


def _as_bytes(member: Any) -> bytes:
    return member if isinstance(member, bytes) else str(member).encode(errors="surrogateescape")


def _fields(data: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    if not isinstance(data, Mapping) or set(data) != names:
        raise JobError("job", f"must have the fields {sorted(names)}, got {str(data)[:200]}", _REMEDY)
    return dict(data)


def _require_ints(job: Any, *, least: Mapping[str, int], most: Mapping[str, int]) -> None:
    for name, bound in least.items():
        value, top = getattr(job, name), most.get(name, MOST_ID)
        if type(value) is not int or not bound <= value <= top:
            problem = f"{name} must be an int from {bound} to {top}, got {str(value)[:40]!r}"
            raise JobError(f"job {type(job).__name__}", problem, _REMEDY)
