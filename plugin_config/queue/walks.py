"""How far all tasks of a project are read, by jobs of which each reads a part, and what they found.

To read a very large project takes longer than RQ gives a job: it is read in parts, by several jobs one after the other,
each of which goes on where the last one was. What a change of version finds waits here until all is read, because the
least confident go first, of all tasks. See `worker.service.walking`.

One job at a time reads. Where it died, another may go on after HOLD_S: Redis counts down by the time of its machine, so
that setting this back makes a key stay for as much longer, and one that would stay longer than that counts as gone.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import MOST_ID, parse_id
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode, valid_members

Purpose = Literal["version", "missing"]
"""What the tasks are read for: those of older versions, or those without any prediction."""

HOLD_S = 120.0
"""Seconds after which another may go on with a walk whose reader notes nothing: longer than Label Studio, asked again
and again, takes for a page.
"""

# KEYS of all: the walk, who reads, what it found (where that waits here). Ids have up to 63 bits, and numbers here 53:
# of two texts the shorter one is the smaller number.
_IDS = f"""
local function is_less(a, b) return #a < #b or (#a == #b and a < b) end
local function is_id(text)
  return text == '0' or (string.match(text, '^[1-9]%d*$') and not is_less('{MOST_ID}', text))
end
"""

# ARGV: version, whether to begin anew in any case (0 or 1), name of a new walk, who reads now, for how long nobody else
# may (ms). Returns the name of the walk and the id of the last task that it has read; nothing where another reads; the
# name alone where nobody is to read for a moment.
_BEGIN = _IDS + """
local held = redis.call('HMGET', KEYS[1], 'version', 'name', 'after')
local name, after = held[2] or '', held[3] or ''
local is_ours = #name == 32 and not string.find(name, '[^0-9a-f]') and is_id(after)
if ARGV[2] == '0' and held[1] == ARGV[1] and is_ours then
  local left = redis.call('PTTL', KEYS[2])
  if left >= 0 and left <= tonumber(ARGV[5]) then
    if redis.call('GET', KEYS[2]) == '' then return {name} end
    return {}
  end
else
  name, after = ARGV[3], '0'
  redis.call('DEL', KEYS[1])
  if KEYS[3] then redis.call('UNLINK', KEYS[3]) end
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'name', name, 'after', after)
end
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
return {name, after}
"""

# ARGV: name of the walk, who reads, for how long nobody else may (ms), id of the last task that is read, then score and
# id of each task that is found. What one reads that was taken for dead counts, too: else two slow ones never get on.
_SAVE = _IDS + """
if redis.call('HGET', KEYS[1], 'name') ~= ARGV[1] then return 0 end
for i = 5, #ARGV, 2 do redis.call('ZADD', KEYS[3], ARGV[i], ARGV[i + 1]) end
if is_less(redis.call('HGET', KEYS[1], 'after') or '0', ARGV[4]) then redis.call('HSET', KEYS[1], 'after', ARGV[4]) end
local reader = redis.call('GET', KEYS[2])
if reader and reader ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""

# ARGV: who reads, how long nobody is to read (ms).
_LEAVE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[2])
end
return 1
"""

# ARGV: name of the walk; "" = any.
_END = """
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'name') ~= ARGV[1] then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
"""


@dataclass(frozen=True)
class Walk:
    """A part of one reading of all tasks of a project.

    Attributes:
        name: of the reading, never used again by another.
        after: the tasks up to this id are read.
        reader: who reads this part, never used again by another.
    """

    name: str
    after: int
    reader: str


class Held(Enum):
    """Why a walk does not go on now."""

    READ = "another reads, or died within HOLD_S"
    PAUSED = "nobody is to read for a moment"


class TaskWalks:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        purpose: of the walks; those of one know nothing of those of the other.
    """

    def __init__(self, redis: Redis, purpose: Purpose) -> None:
        self._redis = redis
        self._purpose = purpose

    @redis_errors
    def begin(self, project: int, version: str, *, anew: bool = False) -> Walk | Held:
        """Go on with the walk for this version where nobody does, or begin one in place of that for another, whoever
        reads it.

        Args:
            project: its id.
            version: that the tasks are to have.
            anew: whether to begin in any case: what an earlier walk for this version has read may be outdated.
        """
        reader = uuid.uuid4().hex
        found: Any = self._run(_BEGIN, project, version, int(anew), uuid.uuid4().hex, reader, int(HOLD_S * 1000))
        if len(found) < 2:
            return Held.PAUSED if found else Held.READ
        return Walk(decode(found[0]), int(found[1]), reader)

    @redis_errors
    def save(self, project: int, walk: Walk, *, after: int, scores: Mapping[int, float] | None = None) -> bool:
        """Note how far a walk is. False where it is not to go on here: it has ended, another began, or another reads.

        Args:
            project: its id.
            walk: as `begin` returned it.
            after: the tasks up to this id are read.
            scores: task to be predicted again -> its score, no NaN; only for the purpose "version".
        """
        rows = [part for task, score in (scores or {}).items() for part in (repr(float(score)), str(task))]
        return bool(self._run(_SAVE, project, walk.name, walk.reader, int(HOLD_S * 1000), after, *rows))

    @redis_errors
    def found(self, project: int, walk: Walk) -> list[int] | None:
        """The tasks to be predicted again, the least confident first, then by id; None where it is no walk any more."""
        keys = ProjectKeys(project)
        if decode(self._redis.hget(keys.walk, "name") or "") != walk.name:
            return None
        scores: dict[Any, float] = dict(self._redis.zscan_iter(keys.stale, count=1000))
        rows = valid_members(self._redis, keys.stale, scores, parse_id)
        return [task for _, task in sorted((scores[member], task) for member, task in rows)]

    @redis_errors
    def leave(self, project: int, walk: Walk, *, pause_s: float) -> None:
        """Let anyone go on with a walk after `pause_s` seconds, fewer than HOLD_S, if nobody does already."""
        self._run(_LEAVE, project, walk.reader, int(pause_s * 1000))

    @redis_errors
    def end(self, project: int, walk: Walk | None) -> None:
        """Forget a walk whose tasks are requested; None = any."""
        self._run(_END, project, "" if walk is None else walk.name)

    def _run(self, script: str, project: int, *args: Any) -> Any:
        of = ProjectKeys(project)
        keys = (of.walk, of.walker, of.stale) if self._purpose == "version" else (of.recount, of.recounter)
        return self._redis.eval(script, len(keys), *keys, *args)
