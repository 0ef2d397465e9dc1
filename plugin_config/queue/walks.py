"""How far a project's tasks are read after a change of version, and which of them are to be predicted again.

To read a very large project takes longer than RQ gives a job: it is read in parts, by several jobs one after the other,
each of which goes on where the last one was. What is found waits here until all is read, because the least confident
go first, of all tasks. See `worker.service.rollout`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_id
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode, valid_members

# KEYS: prefix of the project. ARGV: version, whether to begin anew in any case (0 or 1), name of a new walk. Returns
# the name of the walk and the id of the last task that it has read.
_BEGIN = """
local walk, stale = KEYS[1] .. 'walk', KEYS[1] .. 'stale'
local held = redis.call('HMGET', walk, 'version', 'name', 'after')
if ARGV[2] == '0' and held[1] == ARGV[1] and held[2] and string.match(held[3] or '', '^%d+$') and #held[3] < 19 then
  return {held[2], held[3]}
end
redis.call('DEL', walk)
redis.call('UNLINK', stale)
redis.call('HSET', walk, 'version', ARGV[1], 'name', ARGV[3], 'after', 0)
return {ARGV[3], '0'}
"""

# KEYS: prefix of the project. ARGV: name of the walk, id of the last task that is read, then score and id of each task
# that is to be predicted again. Ids have up to 63 bits, and numbers here 53: the shorter text is the smaller number.
_SAVE = """
local walk, stale = KEYS[1] .. 'walk', KEYS[1] .. 'stale'
if redis.call('HGET', walk, 'name') ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do redis.call('ZADD', stale, ARGV[i], ARGV[i + 1]) end
local held, last = redis.call('HGET', walk, 'after') or '0', ARGV[2]
if #held < #last or (#held == #last and held < last) then redis.call('HSET', walk, 'after', last) end
return 1
"""

# KEYS: prefix of the project. ARGV: name of the walk.
_END = """
local walk, stale = KEYS[1] .. 'walk', KEYS[1] .. 'stale'
if redis.call('HGET', walk, 'name') ~= ARGV[1] then return 0 end
redis.call('DEL', walk)
redis.call('UNLINK', stale)
return 1
"""


@dataclass(frozen=True)
class Walk:
    """One reading of all tasks of a project.

    Attributes:
        name: never used again by another.
        after: the tasks up to this id are read.
    """

    name: str
    after: int


class VersionWalks:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def begin(self, project: int, version: str, *, anew: bool) -> Walk:
        """Go on with the walk for this version, or begin one in place of that for another.

        Args:
            project: its id.
            version: that the tasks are to have.
            anew: whether to begin in any case: what an earlier walk for this version has read may be outdated.
        """
        arguments = version, int(anew), uuid.uuid4().hex
        found: Any = self._redis.eval(_BEGIN, 1, ProjectKeys(project).prefix, *arguments)
        return Walk(decode(found[0]), int(found[1]))

    @redis_errors
    def save(self, project: int, walk: Walk, *, after: int, scores: Mapping[int, float]) -> bool:
        """Note how far a walk is. False where it is none any more: it has ended, or another one began.

        Args:
            project: its id.
            walk: as `begin` returned it.
            after: the tasks up to this id are read.
            scores: task to be predicted again -> its score; no NaN.
        """
        rows = [part for task, score in scores.items() for part in (repr(float(score)), str(task))]
        return bool(self._redis.eval(_SAVE, 1, ProjectKeys(project).prefix, walk.name, after, *rows))

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
    def end(self, project: int, walk: Walk) -> None:
        """Forget a walk whose tasks are requested."""
        self._redis.eval(_END, 1, ProjectKeys(project).prefix, walk.name)
