"""When each project's corrections are checked, which learner does it now, and how far it is.

A check is requested by a webhook, by a person, or by the periodic round; it stays requested until a learner has ended
it, so a process that dies during one costs nothing. A learner holds a project under a lease.

Fields of the hash `learn` of a project (moments in ms of the queue's clock):

    first        moment of the first webhook since a check last began
    hinted       moment of the last webhook, until a check that began later has ended
    now          1 while a person waits for a check to begin
    pressed      1 while a person waits for the check that began to end
    deaths       learners that died at the project, or met unexpected errors, since something changed
    mark, since  the annotations as the last check found them, and the moment since which they stand so
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from redis import Redis

from plugin_config.json_records import parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_id
from plugin_config.queue.keys import LEARN, ProjectKeys
from plugin_config.queue.quarantine import valid_members
from plugin_config.queue.scripts import CLOCK, CONTRACT_GUARD

State = Literal["idle", "waiting", "learning", "blocked"]

# Several annotators rarely pause at the same time: learning waits at most ten times as long as one pause.
_MOST_PAUSES = 10

# ARGV: project, quiet (ms), most pauses. What a person waits for is not put off: a moment that is over becomes now, so
# that a running check, which began with it, is followed by another one.
_REQUEST_AFTER_PAUSE = CLOCK + """
local first = num(redis.call('HGET', P .. 'learn', 'first')) or now
local person_waits = redis.call('HEXISTS', P .. 'learn', 'now') + redis.call('EXISTS', P .. 'offer') > 0
local noted = num(redis.call('ZSCORE', LEARN, ARGV[1]))
redis.call('HSET', P .. 'learn', 'first', first, 'hinted', now, 'deaths', 0)
local latest = first + ARGV[2] * ARGV[3]
local at = math.max(now, math.min(now + ARGV[2], latest))
if person_waits and noted then at = math.max(now, math.min(noted, at)) end
redis.call('ZADD', LEARN, at, ARGV[1])
return 1
"""

# ARGV: project.
_REQUEST_NOW = CLOCK + """
redis.call('HSET', P .. 'learn', 'now', 1, 'deaths', 0)
redis.call('ZADD', LEARN, now, ARGV[1])
return 1
"""

# ARGV: project.
_REQUEST = CLOCK + "return redis.call('ZADD', LEARN, 'NX', now, ARGV[1])"

# A value that is no lease counts as none; the next lease replaces it.
_LEASE = """
local function lease(prefix)
  local held = redis.pcall('GET', prefix .. 'learner')
  local owner, runs_out = string.match(type(held) == 'string' and held or '', '^(.*)|(%d+)$')
  if not owner or not num(runs_out) then return nil end
  return owner, num(runs_out)
end
"""

_DUE = CLOCK + CONTRACT_GUARD + _LEASE + """
local due = {}
for _, project in ipairs(redis.call('ZRANGEBYSCORE', LEARN, '-inf', now)) do
  local owner, runs_out = lease(prefix_of(project))
  if asked_by(project) <= CONTRACT and (not owner or runs_out < now) then due[#due + 1] = project end
end
return due
"""

# ARGV: project, owner, lease (ms). A learner whose lease ended has died; from the third death on a pause grows. What is
# requested before now belongs to this check, through deaths; later requests belong to the next, with their own pause.
_BEGIN = CLOCK + _LEASE + """
redis.call('HLEN', P .. 'learn')
local owner, runs_out = lease(P)
if owner and runs_out >= now then return nil end
local asked = redis.call('ZSCORE', LEARN, ARGV[1])
if not asked or tonumber(asked) > now then return nil end
if owner then
  local deaths = one_more(P .. 'learn', 'deaths')
  if deaths >= 3 then
    redis.call('DEL', P .. 'learner')
    redis.call('ZADD', LEARN, now + 10000 * 2 ^ math.min(deaths - 3, 8), ARGV[1])
    return nil
  end
end
redis.call('SET', P .. 'learner', ARGV[2] .. '|' .. (now + ARGV[3]))
if redis.call('HDEL', P .. 'learn', 'now') == 1 then redis.call('HSET', P .. 'learn', 'pressed', 1) end
redis.call('HDEL', P .. 'learn', 'first')
local row = redis.call('HMGET', P .. 'learn', 'hinted', 'pressed', 'deaths', 'mark', 'since')
local function kept(value) return num(value) and value or '' end
local deaths = tostring(math.floor(num(row[3]) or 0))
return {asked, tostring(now), kept(row[1]), row[2] or '', deaths, row[4] or '', kept(row[5])}
"""

# ARGV: owner, lease (ms).
_RENEW = CLOCK + _LEASE + """
local owner = lease(P)
if owner ~= ARGV[1] then return 0 end
redis.call('SET', P .. 'learner', ARGV[1] .. '|' .. (now + ARGV[2]))
return 1
"""

# ARGV: project, owner, requested moment at the beginning, delay until the next check (ms, -1 = none), failed (0 or 1),
# mark, progress. A request that came meanwhile stays.
_END = CLOCK + _LEASE + """
redis.call('HLEN', P .. 'learn')
if lease(P) ~= ARGV[2] then return 0 end
redis.call('DEL', P .. 'learner')
redis.call('SET', P .. 'learning', ARGV[7])
if redis.call('HGET', P .. 'learn', 'mark') ~= ARGV[6] then
  redis.call('HSET', P .. 'learn', 'mark', ARGV[6], 'since', now)
end
if ARGV[5] == '1' then
  one_more(P .. 'learn', 'deaths')
else
  redis.call('HDEL', P .. 'learn', 'deaths')
end
local over = tonumber(ARGV[4]) < 0
if over then redis.call('HDEL', P .. 'learn', 'pressed') end
if redis.call('ZSCORE', LEARN, ARGV[1]) ~= ARGV[3] then return 1 end
if over then
  redis.call('ZREM', LEARN, ARGV[1])
  redis.call('HDEL', P .. 'learn', 'first', 'hinted')
else
  redis.call('ZADD', LEARN, now + ARGV[4], ARGV[1])
end
return 1
"""


@dataclass(frozen=True)
class LearningLease:
    """One check of a project's corrections, held by one learner.

    Attributes:
        requested: the moment it was requested for, as Redis keeps it.
        quiet_s: seconds since the last webhook; None when none came since the last check.
        immediate: whether a person requested it and does not want to wait for more annotations.
        deaths: how often the same check ended in the death of the learner or an unexpected error.
        mark: the annotations as the last check found them.
        mark_s: seconds since which they stand so.
    """

    requested: str
    quiet_s: float | None
    immediate: bool
    deaths: int
    mark: str
    mark_s: float


@dataclass(frozen=True)
class Progress:
    """How far a project's learning is.

    Attributes:
        state: one of `State`.
        detail: a sentence for people.
        at: since when, UTC.
    """

    state: State
    detail: str
    at: str


class ProjectLearning:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        lease_s: seconds after which another learner may take the project of a dead one.
    """

    def __init__(self, redis: Redis, *, lease_s: float) -> None:
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)

    @redis_errors
    def request_after_pause(self, project: int, *, quiet_s: float) -> None:
        """Request a check because annotations changed, for when none has changed for `quiet_s`; sooner where a person
        waits for one.
        """
        self._run(_REQUEST_AFTER_PAUSE, project, project, int(quiet_s * 1000), _MOST_PAUSES)

    @redis_errors
    def request_now(self, project: int) -> None:
        """Request that a person's corrections are learned from now, however few are new."""
        self._run(_REQUEST_NOW, project, project)

    @redis_errors
    def request(self, project: int) -> None:
        """Request a check unless one is requested already: webhooks get lost."""
        self._run(_REQUEST, project, project)

    @redis_errors
    def due(self) -> list[int]:
        """Ids of the projects whose check is due and that no learner holds."""
        due = self._redis.eval(_DUE, 1, ProjectKeys(0).prefix)
        return [project for _, project in valid_members(self._redis, LEARN, due, parse_id)]

    @redis_errors
    def begin(self, project: int, owner: str) -> LearningLease | None:
        """Lease a project to a learner; None when another one holds it, or when no check is due."""
        row = self._run(_BEGIN, project, project, owner, self._lease_ms)
        if row is None:
            return None
        requested, now, hinted, pressed, deaths, mark, since = (item.decode(errors="replace") for item in row)
        quiet_s = (float(now) - float(hinted)) / 1000 if hinted else None
        mark_s = (float(now) - float(since)) / 1000 if since else 0.0
        return LearningLease(requested, quiet_s, pressed == "1", int(deaths), mark, mark_s)

    @redis_errors
    def renew(self, project: int, owner: str) -> bool:
        """Extend the lease; False when it belongs to another learner by now."""
        return bool(self._run(_RENEW, project, owner, self._lease_ms))

    @redis_errors
    def end(
        self, project: int, owner: str, lease: LearningLease, progress: Progress, *, mark: str,
        again_s: float | None = None, failed: bool = False,
    ) -> bool:  # fmt: skip
        """End a check.

        Args:
            project: its id.
            owner: the learner.
            lease: what `begin` returned.
            progress: for people.
            mark: the annotations as this check found them.
            again_s: seconds until the next check; None = when one is requested.
            failed: whether it ended with an unexpected error.

        Returns:
            False when the lease belongs to another learner by now; nothing is changed then.
        """
        delay = -1 if again_s is None else int(again_s * 1000)
        row = json.dumps(asdict(progress))
        return bool(self._run(_END, project, project, owner, lease.requested, delay, int(failed), mark, row))

    @redis_errors
    def set_progress(self, project: int, progress: Progress) -> None:
        """Replace what people see of the learning."""
        self._redis.set(ProjectKeys(project).learning, json.dumps(asdict(progress)))

    @redis_errors
    def progress(self, project: int) -> Progress | None:
        """What people see of the learning; None before the first check, or where it cannot be read."""
        return parse_progress(self._redis.get(ProjectKeys(project).learning))

    def _run(self, script: str, project: int, *args: Any) -> Any:
        return self._redis.eval(script, 1, ProjectKeys(project).prefix, *args)


def parse_progress(found: Any) -> Progress | None:
    """What people see of the learning, as the key `learning` holds it; None where there is none that can be read."""
    return None if found is None else parse_json(found, _progress)


def _progress(row: Any) -> Progress:
    if row["state"] not in get_args(State):
        raise ValueError(row["state"])
    return Progress(row["state"], str(row["detail"]), str(row["at"]))
