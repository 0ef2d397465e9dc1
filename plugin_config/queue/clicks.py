"""Clicks on their way: from the backend, where an annotator waits, to a worker, and the answer back.

A click is taken by one worker. Nothing is tried again: when the worker dies, the annotator clicks again. JSON only.
Those of each contract have a list of their own, as jobs have queues.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from redis import Redis

from plugin_config.errors import JobError, QueueFull
from plugin_config.json_records import parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import MOST_ID
from plugin_config.queue.keys import (
    CLICK_QUEUES,
    CLICKERS,
    CLICKERS_ABOUT,
    CLICKS,
    UNANSWERED,
    ProjectKeys,
    click_answer,
)
from plugin_config.queue.presence import ALIVE_MS
from plugin_config.queue.quarantine import parse_moment
from plugin_config.queue.scripts import CLOCK, CONTRACT_GUARD, IS_NEWER

MOST_WAITING = 64
"""Clicks in Redis at a time; each may bring a few megabytes of regions."""

_ANSWER_KEPT_S = 30
_LEFT_S = 0.1
_MOST_NOTES = 100
_MOST_REASON = 500
_ID = re.compile(r"[0-9a-f]{32}")
_WORDS = re.compile(r"[A-Za-z0-9_.:+/() -]{1,300}")
_KINDS = ("mask", "prediction")
_REMEDY = "Clicks are written by the backend only; look who else writes to this Redis."

# KEYS: prefix of the project, `clicks`, `clickers`, `clickers:about`. ARGV: patience (ms), a worker is alive (ms), most
# clicks, the click. Returns how many workers answer such a click, -1 where there is no room; the contract that it
# needs; and how many workers answer clicks of any contract.
_ASK = CLOCK + CONTRACT_GUARD + """
local needed, fit = math.max(CONTRACT, asked_by(project)), 0
local workers = redis.call('ZRANGEBYSCORE', KEYS[3], wall - ARGV[2], wall + ARGV[2])
for _, worker in ipairs(workers) do
  local is_json, about = pcall(cjson.decode, redis.call('HGET', KEYS[4], worker) or '')
  local told = is_json and type(about) == 'table' and about.contract
  local has = num(type(told) == 'string' and told) or 1
  if has >= needed then fit = fit + 1 end
end
if fit == 0 then return {0, needed, #workers} end
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[3]) then return {-1, needed, #workers} end
redis.call('RPUSH', KEYS[2], string.format('%.0f', wall + ARGV[1]) .. '|' .. ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return {fit, needed, #workers}
"""

# KEYS: list that a click was taken from. ARGV: moment until which somebody waits, what was taken.
_PUT_BACK = """
if redis.call('RPUSH', KEYS[1], ARGV[2]) == 1 then redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end
return 1
"""


@dataclass(frozen=True)
class ClickRequest:
    """What somebody waits for.

    Attributes:
        id: 32 hex digits, never used twice.
        kind: "mask" = of the thing that is pointed at; "prediction" = all masks of the task, without storing them.
        project, task: their ids.
        version: that predictions of the project carry, as the backend knows it.
        config: digest of the labeling config the backend was sent.
        prompts: regions that point at the thing, as Label Studio's editor writes them.
        drawn: regions that are there already; an `rle` in them is a text, its bytes in base64.
    """

    id: str
    kind: Literal["mask", "prediction"]
    project: int
    task: int
    version: str
    config: str
    prompts: tuple[Mapping[str, Any], ...] = ()
    drawn: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, row: Any) -> ClickRequest:
        """Make a request of what stood in Redis.

        Raises:
            JobError: a field is missing, unknown or of the wrong type.
        """
        names = ("id", "kind", "project", "task", "version", "config", "prompts", "drawn")
        if not isinstance(row, dict) or set(row) != set(names):
            raise JobError("click", f"must have the fields {', '.join(names)}", _REMEDY)
        ids = all(type(row[name]) is int and 0 < row[name] <= MOST_ID for name in ("project", "task"))
        texts = all(isinstance(row[name], str) and _WORDS.fullmatch(row[name]) for name in ("version", "config"))
        regions = all(isinstance(row[name], list) and all(isinstance(one, dict) for one in row[name])
                      for name in ("prompts", "drawn"))  # fmt: skip
        named = isinstance(row["id"], str) and _ID.fullmatch(row["id"]) is not None and row["kind"] in _KINDS
        if not (ids and texts and regions and named):
            raise JobError("click", f"has a field of the wrong type: {str(row)[:200]}", _REMEDY)
        return cls(**{**row, "prompts": tuple(row["prompts"]), "drawn": tuple(row["drawn"])})


@dataclass(frozen=True)
class ClickAnswer:
    """What a worker answers.

    Attributes:
        result: regions as Label Studio's editor reads them; empty where nothing can be drawn.
        score: confidence, 0 to 1.
        version: of the model that drew them.
        reason: why the result is empty, for people; "" = it is not.
    """

    result: Sequence[Mapping[str, Any]] = ()
    score: float = 0.0
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class UnansweredClick:
    """A click that got no mask.

    Attributes:
        at: when, UTC.
        project, task: their ids.
        reason: for people.
    """

    at: datetime
    project: int
    task: int
    reason: str


class ClickQueue:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection; it must wait longer for an answer than `wait` and `take` are told to.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def ask(self, request: ClickRequest, *, patience_s: float) -> bool:
        """Hand a click to the workers; False when none lives that answers clicks.

        Raises:
            QueueFull: too many clicks wait.
            JobError: all workers that answer clicks have an older contract than this process, or than a part that
                requested tasks of the project.
        """
        content = json.dumps(vars(request), separators=(",", ":"))
        keys = (ProjectKeys(request.project).prefix, CLICKS, CLICKERS, CLICKERS_ABOUT)
        found: Any = self._redis.eval(
            _ASK, len(keys), *keys, int(patience_s * 1000), ALIVE_MS, MOST_WAITING, content
        )  # fmt: skip
        fit, needed, workers = (int(number) for number in found)
        if fit < 0:
            raise QueueFull("clicks", f"{MOST_WAITING} wait already", "Click again in a moment.")
        if workers and not fit:
            problem = f"needs a worker of contract {needed}, and all that answer clicks are older"
            raise JobError("click", problem, "Upgrade the workers.")
        return fit > 0

    @redis_errors
    def wait(self, click: str, *, timeout_s: float) -> ClickAnswer | None:
        """Wait for the answer to a click; None when the time ran out, or what came is no answer."""
        found: Any = self._redis.blpop([click_answer(click)], timeout=timeout_s)
        return None if found is None else parse_json(found[1], _answer)

    @redis_errors
    def take(self, *, timeout_s: float) -> ClickRequest | None:
        """Take the oldest click of this contract, else of an older one, for which somebody still waits; None when none
        came within the time. One about a project of a newer contract is put back, with a rest in which a newer worker
        may take it.

        Raises:
            JobError: what was taken is none.
        """
        found: Any = self._redis.blpop(CLICK_QUEUES, timeout=timeout_s)
        if found is None:
            return None
        until, _, content = found[1].partition(b"|")
        row = parse_json(content, lambda row: row)
        request = ClickRequest.from_json(row)
        seconds, micros = self._redis.time()
        if not until.isdigit() or int(until) < int(seconds) * 1000 + int(micros) // 1000:
            return None
        if self._redis.eval(IS_NEWER, 1, ProjectKeys(request.project).prefix):
            self._redis.eval(_PUT_BACK, 1, found[0], until, found[1])
            time.sleep(_LEFT_S)
            return None
        return request

    @redis_errors
    def answer(self, click: str, answer: ClickAnswer) -> None:
        """Answer a click."""
        key, content = click_answer(click), json.dumps(vars(answer), separators=(",", ":"))
        pipe = self._redis.pipeline()
        pipe.rpush(key, content)
        pipe.expire(key, _ANSWER_KEPT_S)
        pipe.execute()

    @redis_errors
    def waiting(self) -> int:
        """How many clicks no worker has taken yet."""
        return sum(int(self._redis.llen(queue)) for queue in CLICK_QUEUES)

    @redis_errors
    def note_unanswered(self, project: int, task: int, reason: str) -> None:
        """Note a click that got no mask, for `zeromask status`."""
        seconds: Any = self._redis.time()
        row = {"at": int(seconds[0]) * 1000, "project": project, "task": task, "reason": reason[:_MOST_REASON]}
        pipe = self._redis.pipeline()
        pipe.lpush(UNANSWERED, json.dumps(row))
        pipe.ltrim(UNANSWERED, 0, _MOST_NOTES - 1)
        pipe.execute()

    @redis_errors
    def unanswered(self, most: int) -> list[UnansweredClick]:
        """The last clicks without a mask, newest first; at most `most` rows are read, unreadable ones left out."""
        rows: Any = self._redis.lrange(UNANSWERED, 0, most - 1) if most else []
        return [found for found in (parse_json(row, _unanswered) for row in rows) if found is not None]


def _answer(row: Any) -> ClickAnswer:
    result, score = row["result"], row["score"]
    texts = (row["version"], row["reason"])
    regions = isinstance(result, list) and all(isinstance(region, dict) for region in result)
    if not regions or type(score) not in (int, float) or not all(isinstance(text, str) for text in texts):
        raise ValueError("no answer")
    return ClickAnswer(tuple(result), min(1.0, max(0.0, float(score))), *texts)


def _unanswered(row: Any) -> UnansweredClick:
    return UnansweredClick(parse_moment(row["at"]), int(row["project"]), int(row["task"]), str(row["reason"]))
