"""Adapters that a person offers to a project: the one that waits for a learner, and what became of the last one.

An offer stays asked for until a learner has answered it, so a learner that dies meanwhile costs nothing; such deaths
are counted, because the offer may be their cause. A newer one takes the place of one that still waits. The files of an
offer lie beside the project's versions, which every learner sees; see `plugin_config.versions.manifests`.

Fields of the hash `judging` of a project:

    offer        name of the offer that a learner began to judge last
    learner      the learner that judges it; none once it was interrupted
    deaths       learners that began to judge it and did not come to an end
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from plugin_config.json_records import make_dataclass, parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.scripts import CLOCK

_NAME = re.compile(r"offer-[0-9a-f]{12}")  # it becomes part of a path

# ARGV: project, offer. A check that was requested for later is due now; the learner keeps its pause. One that runs
# began with an earlier moment and may have found no offer: another follows.
_ASK = CLOCK + """
redis.call('ZCARD', LEARN)
redis.call('SET', P .. 'offer', ARGV[2])
redis.call('ZADD', LEARN, now, ARGV[1])
return 1
"""

# ARGV: name of the offer, learner. Another learner that judged it and did not say that it stops has died. One that
# begins again itself has not: Redis was away.
_BEGIN = CLOCK + """
local held = redis.call('HMGET', P .. 'judging', 'offer', 'learner')
if held[1] ~= ARGV[1] then
  redis.call('DEL', P .. 'judging')
elseif held[2] and held[2] ~= ARGV[2] then
  one_more(P .. 'judging', 'deaths')
end
redis.call('HSET', P .. 'judging', 'offer', ARGV[1], 'learner', ARGV[2])
return math.floor(num(redis.call('HGET', P .. 'judging', 'deaths')) or 0)
"""

# ARGV: learner. Another one may have begun meanwhile.
_INTERRUPT = CLOCK + """
if redis.call('HGET', P .. 'judging', 'learner') == ARGV[1] then redis.call('HDEL', P .. 'judging', 'learner') end
return 1
"""

# ARGV: offer as it was read, answer. A newer offer stays.
_ANSWER = CLOCK + """
redis.call('SET', P .. 'offered', ARGV[2])
if redis.call('GET', P .. 'offer') == ARGV[1] then redis.call('DEL', P .. 'offer', P .. 'judging') end
return 1
"""


@dataclass(frozen=True)
class Offer:
    """An adapter that waits for its verdict.

    Attributes:
        name: `offer-<12 hex digits>`, another one each time; the folder of its files.
        model: the MODEL that it was trained on; learners of other models leave it alone.
        source: where it comes from, for people.
        at: when it was offered, UTC.
    """

    name: str
    model: str
    source: str
    at: str


@dataclass(frozen=True)
class OfferAnswer:
    """What became of an offer.

    Attributes:
        name: of the offer.
        promoted: whether it is served from now on.
        reason: the verdict of the gate; "" = there is none, because the offer was refused.
        served: name of what is served from now on.
        refusal: subject, problem and remedy of the error that ended it; () = it was judged.
    """

    name: str
    promoted: bool
    reason: str
    served: str
    refusal: tuple[str, ...] = ()


class ProjectOffers:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def ask(self, project: int, offer: Offer) -> None:
        """Ask the project's learner to judge an offer whose files are there."""
        self._redis.eval(_ASK, 1, ProjectKeys(project).prefix, project, json.dumps(asdict(offer)))

    @redis_errors
    def waiting(self, project: int) -> Offer | None:
        """The offer that waits; None where there is none, or one that cannot be read."""
        found: Any = self._redis.get(ProjectKeys(project).offer)
        return None if found is None else parse_json(found, _offer)

    @redis_errors
    def begin(self, project: int, offer: Offer, learner: str) -> int:
        """Note that the learner that holds the project judges an offer. Returns how many have died at that so far."""
        deaths: Any = self._redis.eval(_BEGIN, 1, ProjectKeys(project).prefix, offer.name, learner)
        return int(deaths)

    @redis_errors
    def interrupt(self, project: int, learner: str) -> None:
        """Note that a learner leaves its offer to the next one, alive."""
        self._redis.eval(_INTERRUPT, 1, ProjectKeys(project).prefix, learner)

    @redis_errors
    def answer(self, project: int, offer: Offer, answer: OfferAnswer) -> None:
        """Note what became of an offer; it waits no more."""
        row = json.dumps(asdict(answer))
        self._redis.eval(_ANSWER, 1, ProjectKeys(project).prefix, json.dumps(asdict(offer)), row)

    @redis_errors
    def answered(self, project: int) -> OfferAnswer | None:
        """What became of the last offer; None where nothing did, or where it cannot be read."""
        found: Any = self._redis.get(ProjectKeys(project).offered)
        return None if found is None else parse_json(found, _answer)


def _offer(row: Any) -> Offer:
    offer = make_dataclass(Offer, row)
    if not _NAME.fullmatch(offer.name):
        raise ValueError(offer.name)
    return offer


def _answer(row: Any) -> OfferAnswer:
    answer = make_dataclass(OfferAnswer, row)
    if len(answer.refusal) not in (0, 3):
        raise ValueError(answer.refusal)
    return answer
