"""What is remembered of each project beside the states of its tasks: the versions stored, wanted and shown, remarks for
people, and tasks whose stored predictions need another check.

A copy in Redis for speed; the truth is in Label Studio.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis import Redis

from plugin_config.json_records import parse_json
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef, parse_id, parse_ref, parse_text
from plugin_config.queue.keys import PROJECT_TYPES, ProjectKeys
from plugin_config.queue.quarantine import decode, valid_members

# Longer than Label Studio, or a proxy before it, works on a request whose sender is gone.
UNCONFIRMED_S = 180

CARD_FRESH_S = 600

# Of an earlier project with the same id this stays: tasks and jobs that wait, which may be of the new one, as may what
# webhooks and people said last; and what a living process holds.
_KEPT = frozenset({
    "created", "pending", "leases", "drain", "refresh", "looked", "hinted", "webhook", "learn", "learner", "offer",
    "judging", "pointer", "ordered",
})  # fmt: skip
_FORGOTTEN = sorted(PROJECT_TYPES.keys() - _KEPT - {"done"})

# ARGV: when the project was created, names of the keys that go if another had its id. Returns 1 where they went.
_CLAIM = """
local P = KEYS[1]
local held = redis.call('GET', P .. 'created')
if held == ARGV[1] then return 0 end
if held then
  for _, version in ipairs(redis.call('SMEMBERS', P .. 'versions')) do redis.call('UNLINK', P .. 'done:' .. version) end
  for i = 2, #ARGV do redis.call('UNLINK', P .. ARGV[i]) end
end
redis.call('SET', P .. 'created', ARGV[1])
return held and 1 or 0
"""


class ProjectLedger:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def belong_to(self, project: int, created: str) -> bool:
        """Forget what is known of an earlier project with the same id; returns whether there was one.

        Args:
            project: its id.
            created: when it was created, as Label Studio writes it; "" = not known.
        """
        prefix = ProjectKeys(project).prefix
        return bool(created) and bool(self._redis.eval(_CLAIM, 1, prefix, created, *_FORGOTTEN))

    @redis_errors
    def add_version(self, project: int, version: str) -> None:
        """Remember that predictions of this version are stored."""
        self._redis.sadd(ProjectKeys(project).versions, version)

    @redis_errors
    def versions(self, project: int) -> frozenset[str]:
        """Every version stored by this project, whose predictions may be replaced; others belong to somebody else."""
        key = ProjectKeys(project).versions
        rows: Any = self._redis.smembers(key)
        return frozenset(version for _, version in valid_members(self._redis, key, rows, parse_text))

    @redis_errors
    def start_rollout(self, project: int, version: str) -> None:
        """Make this the target version of all tasks; the caller requests them, then calls `finish_rollout`."""
        keys = ProjectKeys(project)
        self._redis.eval(scripts.NOTE_CONTRACT, 1, keys.prefix)
        pipe = self._redis.pipeline()  # both or neither
        pipe.sadd(keys.catching, version)
        pipe.set(keys.served, version)
        pipe.execute()

    @redis_errors
    def finish_rollout(self, project: int, version: str) -> None:
        """Note that all tasks that need this version have been requested."""
        self._redis.srem(ProjectKeys(project).catching, version)

    @redis_errors
    def is_rolling_out(self, project: int, version: str) -> bool:
        """Whether a rollout was started and not finished: a worker does it now, or died during it."""
        return bool(self._redis.sismember(ProjectKeys(project).catching, version))

    @redis_errors
    def target_version(self, project: int) -> str:
        """The version of the last `start_rollout`, "" before the first."""
        return decode(self._redis.get(ProjectKeys(project).served) or "")

    @redis_errors
    def set_shown_version(self, project: int, version: str) -> None:
        """Note that Label Studio was set to show this version; that is done once, then annotators may choose."""
        self._redis.set(ProjectKeys(project).shown, version)

    @redis_errors
    def shown_version(self, project: int) -> str:
        """The version of the last `set_shown_version`, "" before the first."""
        return decode(self._redis.get(ProjectKeys(project).shown) or "")

    @redis_errors
    def set_task_count(self, project: int, tasks: int) -> None:
        """Note how many tasks the project had when all of them were read."""
        self._redis.set(ProjectKeys(project).counted, tasks)

    @redis_errors
    def task_count(self, project: int) -> int:
        """The number of the last `set_task_count`, -1 before the first."""
        found = parse_json(self._redis.get(ProjectKeys(project).counted) or b"-1", _int)
        return -1 if found is None else found

    @redis_errors
    def set_label_remarks(self, project: int, version: str, remarks: Sequence[str]) -> None:
        """Replace what people should know about the labels of the project.

        Args:
            project: its id.
            version: the version whose labels were checked, and a digest of what its config has beside.
            remarks: a sentence each.
        """
        row: Any = {"version": version, "remarks": json.dumps(list(remarks))}
        self._redis.hset(ProjectKeys(project).labels, mapping=row)

    @redis_errors
    def label_remarks_version(self, project: int) -> str:
        """The version of the last `set_label_remarks`, "" before the first."""
        return decode(self._redis.hget(ProjectKeys(project).labels, "version") or "")

    @redis_errors
    def label_remarks(self, project: int) -> tuple[str, ...]:
        """What people should know about the labels, a sentence each."""
        return parse_remarks(self._redis.hget(ProjectKeys(project).labels, "remarks"))

    @redis_errors
    def set_card_note(self, project: int, note: str, *, seen: bool) -> None:
        """Note what the card of the project's model in Label Studio tells; "" = nothing beside its title.

        Args:
            project: its id.
            note: the text.
            seen: whether the card told it already; if not, it is looked at again soon.
        """
        keys = ProjectKeys(project)
        pipe = self._redis.pipeline()
        pipe.set(keys.card, note)
        if seen:
            pipe.set(keys.carded, 1, ex=CARD_FRESH_S)
        else:
            pipe.delete(keys.carded)
        pipe.execute()

    @redis_errors
    def is_card_fresh(self, project: int) -> bool:
        """Whether the card was seen to tell its note within CARD_FRESH_S; people may connect the model anew later."""
        return bool(self._redis.exists(ProjectKeys(project).carded))

    @redis_errors
    def doubt_card_note(self, project: int) -> None:
        """Have the card looked at again."""
        self._redis.delete(ProjectKeys(project).carded)

    @redis_errors
    def card_note(self, project: int) -> str | None:
        """The text of the last `set_card_note`, None before the first."""
        found: Any = self._redis.get(ProjectKeys(project).card)
        return None if found is None else decode(found)

    @redis_errors
    def set_webhook_warning(self, project: int, warning: str) -> None:
        """Replace what people should know about the project's webhooks; "" = nothing."""
        if warning:
            self._redis.set(ProjectKeys(project).warning, warning)
        else:
            self._redis.delete(ProjectKeys(project).warning)

    @redis_errors
    def webhook_warning(self, project: int) -> str:
        """The text of the last `set_webhook_warning`, "" before the first."""
        return decode(self._redis.get(ProjectKeys(project).warning) or "")

    @redis_errors
    def add_leftover(self, project: int, task: int) -> None:
        """Note that older predictions of a task are still stored beside the newest."""
        self._redis.sadd(ProjectKeys(project).left, task)

    @redis_errors
    def leftovers(self, project: int) -> list[int]:
        """Ids of the tasks that have older predictions beside the newest."""
        key = ProjectKeys(project).left
        rows: Any = self._redis.smembers(key)
        return sorted(task for _, task in valid_members(self._redis, key, rows, parse_id))

    @redis_errors
    def clear_leftover(self, project: int, task: int) -> None:
        """Note that the older predictions of a task are deleted."""
        self._redis.srem(ProjectKeys(project).left, task)

    @redis_errors
    def add_unconfirmed(self, project: int, ref: TaskRef) -> None:
        """Note that a prediction was sent without an answer: it may arrive late, and beside a second one."""
        self._redis.eval(scripts.ADD_UNCONFIRMED, 1, ProjectKeys(project).prefix, ref.encode(), UNCONFIRMED_S * 1000)

    @redis_errors
    def unconfirmed(self, project: int) -> dict[TaskRef, bool]:
        """Tasks that may have two predictions; True where none can arrive any more, so that one check is enough."""
        keys = ProjectKeys(project)
        now = int(self._redis.eval(scripts.NOW, 1, keys.prefix))
        rows: Any = self._redis.zrange(keys.doubts, 0, -1, withscores=True)
        until: dict[Any, float] = dict(rows)
        valid = valid_members(self._redis, keys.doubts, until, parse_ref)
        return {ref: until[member] <= now for member, ref in valid}

    @redis_errors
    def is_unconfirmed(self, project: int, ref: TaskRef) -> bool:
        """Whether a prediction of this task may be stored although nobody got the answer."""
        return self._redis.zscore(ProjectKeys(project).doubts, ref.encode()) is not None

    @redis_errors
    def clear_unconfirmed(self, project: int, ref: TaskRef) -> None:
        """Note that a task has one prediction, and that no second one will arrive."""
        self._redis.zrem(ProjectKeys(project).doubts, ref.encode())


def parse_remarks(found: Any) -> tuple[str, ...]:
    """The sentences that the field `remarks` holds; none where it cannot be read."""
    return parse_json(found or b"[]", _texts) or ()


def _int(row: Any) -> int:
    if type(row) is not int:
        raise TypeError(row)
    return row


def _texts(row: Any) -> tuple[str, ...]:
    if not isinstance(row, list):
        raise TypeError(row)
    return tuple(map(str, row))
