"""When each project's corrections are looked at, who learns from them now, and how far that is; kept in Redis.

A look is asked for by a webhook, by a person, or by the periodic round; it stays asked for until somebody has ended
it, so a process that dies in the middle costs nothing. It must not know what is done in a look.

Keys of project P:

    zeromask:learn            zset    project -> moment its corrections are to be looked at, ms of the queue's clock
    zeromask:P:learner        string  "owner|moment its lease runs out, ms": who looks now
    zeromask:P:learn          hash    first: moment of the first webhook since a look last began, ms; hinted: of the
                                      last one, until a look has ended after it; now: a person waits for a look to
                                      begin; pressed: for the one that began to end; deaths: learners that died at it
                                      since anything changed; mark, since: how the annotations stood, and since when
    zeromask:P:learning       string  JSON of Progress, for people
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.odd import as_id, as_json, readable
from plugin_config.queue.scripts import CLOCK

State = Literal["idle", "waiting", "learning", "blocked"]

# Several annotators never pause all at once: learning waits for quiet ten times as long as one pause, and no longer.
_MOST_PAUSES = 10

# ARGV: project, quiet (ms), most pauses.
_HINT = CLOCK + """
local first = num(redis.call('HGET', P .. 'learn', 'first')) or now
redis.call('HSET', P .. 'learn', 'first', first, 'hinted', now, 'deaths', 0)
local latest = first + ARGV[2] * ARGV[3]
redis.call('ZADD', 'zeromask:learn', math.max(now, math.min(now + ARGV[2], latest)), ARGV[1])
return 1
"""

# ARGV: project.
_NOW = CLOCK + """
redis.call('HSET', P .. 'learn', 'now', 1, 'deaths', 0)
redis.call('ZADD', 'zeromask:learn', now, ARGV[1])
return 1
"""

# ARGV: project.
_ROUND = CLOCK + "return redis.call('ZADD', 'zeromask:learn', 'NX', now, ARGV[1])"

# What is no lease is nobody's; the next one takes its place.
_LEASE = """
local function lease(prefix)
  local held = redis.pcall('GET', prefix .. 'learner')
  local owner, runs_out = string.match(type(held) == 'string' and held or '', '^(.*)|(%d+)$')
  if not owner or not num(runs_out) then return nil end
  return owner, num(runs_out)
end
"""

_DUE = CLOCK + _LEASE + """
local due = {}
for _, project in ipairs(redis.call('ZRANGEBYSCORE', 'zeromask:learn', '-inf', now)) do
  local owner, runs_out = lease('zeromask:' .. project .. ':')
  if not owner or runs_out < now then due[#due + 1] = project end
end
return due
"""

# ARGV: project, owner, lease (ms). Whose lease ran out has died; from the third death on there is a growing pause. What
# came before is this look's, through deaths; what comes from now on is the next one's, with a pause of its own.
_BEGIN = CLOCK + _LEASE + """
redis.call('HLEN', P .. 'learn')
local owner, runs_out = lease(P)
if owner and runs_out >= now then return nil end
local asked = redis.call('ZSCORE', 'zeromask:learn', ARGV[1])
if not asked or tonumber(asked) > now then return nil end
if owner then
  local deaths = one_more(P .. 'learn', 'deaths')
  if deaths >= 3 then
    redis.call('DEL', P .. 'learner')
    redis.call('ZADD', 'zeromask:learn', now + 10000 * 2 ^ math.min(deaths - 3, 8), ARGV[1])
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

# ARGV: project, owner, moment asked for at the beginning, delay until the next look (ms, -1 = none), failed (0 or 1),
# mark, progress. What was asked for meanwhile stays asked for.
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
if redis.call('ZSCORE', 'zeromask:learn', ARGV[1]) ~= ARGV[3] then return 1 end
if over then
  redis.call('ZREM', 'zeromask:learn', ARGV[1])
  redis.call('HDEL', P .. 'learn', 'first', 'hinted')
else
  redis.call('ZADD', 'zeromask:learn', now + ARGV[4], ARGV[1])
end
return 1
"""


@dataclass(frozen=True)
class Visit:
    """A look that has begun.

    Attributes:
        asked: the moment it was asked for, as Redis keeps it.
        quiet_s: seconds since the last webhook, None when none came since the last look.
        pressed: whether a person asked for it and does not want to wait.
        deaths: how often a look at the same ended in the learner's death or an unexpected error.
        mark: how the annotations stood at the last look, and for how many seconds they did.
    """

    asked: str
    quiet_s: float | None
    pressed: bool
    deaths: int
    mark: str
    mark_s: float


@dataclass(frozen=True)
class Progress:
    """What a project's learning is at: `detail` for people, `at` since when, UTC."""

    state: State
    detail: str
    at: str


class ProjectLearning:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        lease_s: seconds after which the project of a dead learner is another's.
    """

    def __init__(self, redis: Redis, *, lease_s: float) -> None:
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)

    @redis_errors
    def hint(self, project: int, *, quiet_s: float) -> None:
        """Annotations are said to have changed: look when there was none for `quiet_s`."""
        self._run(_HINT, project, project, int(quiet_s * 1000), _MOST_PAUSES)

    @redis_errors
    def press(self, project: int) -> None:
        """A person wants it learned from now, however few annotations are new."""
        self._run(_NOW, project, project)

    @redis_errors
    def round(self, project: int) -> None:
        """Look some time, for webhooks get lost."""
        self._run(_ROUND, project, project)

    @redis_errors
    def due(self) -> list[int]:
        """Projects to be looked at now, by nobody yet."""
        due = self._run(_DUE, 0)
        return [project for _, project in readable(self._redis, "zeromask:learn", due, as_id)]

    @redis_errors
    def begin(self, project: int, owner: str) -> Visit | None:
        """Look at a project, alone; None when another one does, or when nobody asks for it any more, or not yet."""
        row = self._run(_BEGIN, project, project, owner, self._lease_ms)
        if row is None:
            return None
        asked, now, hinted, pressed, deaths, mark, since = (item.decode(errors="replace") for item in row)
        quiet_s = (float(now) - float(hinted)) / 1000 if hinted else None
        mark_s = (float(now) - float(since)) / 1000 if since else 0.0
        return Visit(asked, quiet_s, pressed == "1", int(deaths), mark, mark_s)

    @redis_errors
    def renew(self, project: int, owner: str) -> bool:
        """Stay the one that looks; False when another one is by now."""
        return bool(self._run(_RENEW, project, owner, self._lease_ms))

    @redis_errors
    def end(
        self, project: int, owner: str, visit: Visit, progress: Progress, *, mark: str, again_s: float | None = None,
        failed: bool = False,
    ) -> bool:  # fmt: skip
        """The look is over; look again after `again_s`, or when asked. `mark` tells how the annotations stand. False
        when another one looks by now.
        """
        delay = -1 if again_s is None else int(again_s * 1000)
        told = json.dumps(asdict(progress))
        return bool(self._run(_END, project, project, owner, visit.asked, delay, int(failed), mark, told))

    @redis_errors
    def tell(self, project: int, progress: Progress) -> None:
        """Say what is being done."""
        self._redis.set(f"zeromask:{project}:learning", json.dumps(asdict(progress)))

    @redis_errors
    def told(self, project: int) -> Progress | None:
        """What was said last, None where that cannot be read."""
        found: Any = self._redis.get(f"zeromask:{project}:learning")
        return None if found is None else as_json(found, _progress)

    def _run(self, script: str, project: int, *args: Any) -> Any:
        return self._redis.eval(script, 1, f"zeromask:{project}:", *args)


def _progress(row: Any) -> Progress:
    if row["state"] not in get_args(State):
        raise ValueError(row["state"])
    return Progress(row["state"], str(row["detail"]), str(row["at"]))
