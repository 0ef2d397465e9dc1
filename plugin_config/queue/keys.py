"""Every name in Redis: the keys of this project with their types, and the queues of RQ.

The queue's clock is Redis' own made steady (see `scripts.CLOCK`); moments are milliseconds of it. A member "task" is
`version|task id` (`jobs.TaskRef`). `quarantine` checks the types of all keys below and moves what has another type.

Keys shared by all projects (`zeromask:` before each):

    key             type    meaning                                            written by            read by
    projects        set     ids of the projects that Label Studio has          pending               states, hints
    unknown         zset    project not yet looked up in Label Studio ->       scripts, hints        states, scripts
                            moment
    paused          set     projects of which no task is taken                 pending               states, scripts
    clock           hash    `wall`: Redis' time at the last call; `now`:       scripts               scripts
                            the queue's clock then
    errors          list    the last 100 failures as JSON, newest first        scripts               states
    refused         hash    `webhooks`: how many were dropped, see `hints`     hints                 hints
    ended           hash    `done`, `failed`: how many tasks ended so          scripts               totals
    stages          hash    stage -> tasks that passed it; "stage:us" -> how   totals                totals
                            long that took, microseconds
    learn           zset    project -> moment its corrections are checked      learning              learning
    again           zset    project -> moment (Redis' time) from which on a     hints                 hints
                            worker queues a look at it
    contracts       hash    project -> newest contract by which tasks of it    scripts, ledger       scripts, states
                            were requested; none = 1, see `contract`
    workers         zset    worker -> moment of its last heartbeat             presence              presence
    about           hash    worker -> JSON: model, device, what it waits for   presence              presence
    learners        zset    } the same for the learners                        presence              presence
    learners:about  hash    }
    clicks          list    clicks that wait for a worker, "moment until which  clicks                clicks
                            somebody waits|JSON of `clicks.ClickRequest`";
                            of contract N > 1: `clicks-N`
    clicks:ID       any     list of one: the answer to a click; half a minute  clicks                clicks
    unanswered      list    the last 100 clicks without a mask, as JSON        clicks                clicks
    clickers        zset    } as `workers`, of those that answer clicks        presence              presence
    clickers:about  hash    }
    periodic:looks  string  there until workers are to look at all projects    periodic              periodic
                            again
    periodic:rounds string  } the same of learners and corrections             periodic              periodic
    odd             list    the last 100 things set aside, as JSON             quarantine            quarantine
    odd:KEY         any     former value of KEY, of a wrong type; kept a week  quarantine            (people)

Keys of project P (`zeromask:P:` before each):

    pending         zset    task -> moment it is due; earlier = sooner         scripts, pending      states, scripts
    leases          hash    task -> "owner|moment it ends|moment it was due"   scripts               states, scripts
    tries           hash    task -> tries that failed and may be repeated      scripts               scripts
    deaths          hash    task -> leases of it that ran out                  scripts               scripts
    failed          hash    task -> reason                                     scripts, pending      states
    done:VERSION    set     ids of the tasks predicted at a version            scripts, pending      states
    pace            hash    ring of 13 times 5 s: "number of the 5 s:tasks     scripts               scripts
                            done in them"
    drain:SLOT      string  "state|moment it ends", see `slots`                slots                 slots
    created         string  when the project was created: a Label Studio set   ledger                ledger
                            up anew gives the same ids again
    versions        set     versions of predictions stored by this project     ledger, scripts       ledger
    served          string  the version that all tasks are to have             ledger                ledger
    catching        set     versions not yet requested for all tasks           ledger                ledger
    walk            hash    how far the tasks are read for a version:          walks                 walks
                            `version`, `name` of the walk, `after`: an id
    stale           zset    id of a task found by it, to be predicted again    walks                 walks
                            -> its score
    walker          string  who reads them now, for as long as nobody else     walks                 walks
                            may; empty = nobody for a moment
    recount         hash    } the same of the reading because the number of    walks                 walks
    recounter       string  } tasks changed, which finds what to predict
    shown           string  the version that Label Studio was last set to       ledger                ledger
    title           string  what Label Studio calls the project                titles                titles
    counted         string  number of tasks when all of them were last read    ledger                ledger
    labels          hash    `version`: whose labels were checked last;         ledger                ledger
                            `remarks`: JSON list of sentences about them
    warning         string  why the project's webhooks are not let in          ledger                ledger
    card            string  what the card of the model in Label Studio tells    ledger                ledger
    carded          string  there for as long as the card is not looked at      ledger                ledger
                            again
    left            set     ids of tasks that have older predictions beside    ledger                ledger
                            the newest
    doubts          zset    task whose prediction may arrive late or twice     ledger, scripts       ledger
                            -> moment from which it cannot
    refresh         string  id of the RQ job of the refresh queued last;       hints                 hints
                            "claimed|id" for the moment in which it is queued
    looked          string  there for a moment after a look began, in which    hints                 hints
                            webhooks queue no other
    hinted          set     ids of tasks that webhooks call new or deleted     hints                 hints
    webhook         string  action and moment of the last webhook; a month     hints                 hints
    learner         string  "owner|moment it ends": lease of the learner       learning              learning
    learn           hash    what is known of the next check of corrections,    learning              learning
                            see `learning`
    learning        string  JSON of `learning.Progress`                        learning              learning
    adapters        hash    model -> JSON of `versions.served.ServedCopy`      versions.served       versions.served
    refusals        hash    worker -> JSON of `versions.refusals.Refusal`      versions.refusals     versions.refusals
    outcomes        hash    model -> JSON: what annotators did with regions    versions.served       versions.served
    judged          hash    version -> JSON: the same of regions predicted     versions.served       versions.served
                            at it
    verdicts        hash    model -> JSON of `versions.verdicts.LastVerdict`   versions.verdicts     versions.verdicts
    pointer         string  lock held while the served version is changed      versions.served       versions.served
    offer           string  JSON of the `offers.Offer` that waits              offers                offers
    judging         hash    the offer that is judged, by which learner, and    offers                offers
                            how many died at it; see `offers`
    offered         string  JSON of the last `offers.OfferAnswer`              offers                offers
    images          hash    id of a task -> JSON of `order.ImageRecord`        order                 order
    places          hash    id of a task -> JSON of `order.Place`: the head    order                 order
                            of the order that annotators get
    corrected       set     ids of the tasks that are annotated                order                 order
    skipped         set     ids of those that somebody skipped and nobody      order                 order
                            annotated
    order           hash    how far the order is, see `order`                  order                 order
    ordered         string  who sets the order now; stays for a few seconds    order                 order
                            after it was set
    resting         string  there for minutes after the order was set while    order                 order
                            predictions came: the corrections it was made from

`pending.forget_project` deletes all keys of a project, and its id from the shared ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from plugin_config.queue.contract import CONTRACT

RedisType = Literal["string", "list", "set", "zset", "hash"]

_ROOT = "zeromask:"
EVERY_KEY = f"{_ROOT}*"
"""Pattern of all keys of this project."""


def _queues(name: str) -> tuple[str, ...]:
    """The queue of jobs, or clicks, of this contract, then those of older ones. A worker that listens to these never
    meets a newer one, which waits untouched for another worker.
    """
    return (*(f"{name}-{number}" for number in range(CONTRACT, 1, -1)), name)


PREDICT_QUEUES = _queues("zeromask-predict")
REFRESH_QUEUES = _queues("zeromask-look")
LEARN_QUEUES = _queues("zeromask-learn")
PREDICT_QUEUE, REFRESH_QUEUE, LEARN_QUEUE = PREDICT_QUEUES[0], REFRESH_QUEUES[0], LEARN_QUEUES[0]
QUEUES = (*PREDICT_QUEUES, *REFRESH_QUEUES, *LEARN_QUEUES)

PROJECTS = f"{_ROOT}projects"
UNKNOWN = f"{_ROOT}unknown"
PAUSED = f"{_ROOT}paused"
CLOCK = f"{_ROOT}clock"
ERRORS = f"{_ROOT}errors"
REFUSED = f"{_ROOT}refused"
ENDED = f"{_ROOT}ended"
STAGES = f"{_ROOT}stages"
LEARN = f"{_ROOT}learn"
AGAIN = f"{_ROOT}again"
CONTRACTS = f"{_ROOT}contracts"
WORKERS = f"{_ROOT}workers"
WORKERS_ABOUT = f"{_ROOT}about"
LEARNERS = f"{_ROOT}learners"
LEARNERS_ABOUT = f"{_ROOT}learners:about"
CLICK_QUEUES = _queues(f"{_ROOT}clicks")
CLICKS = CLICK_QUEUES[0]
UNANSWERED = f"{_ROOT}unanswered"
CLICKERS = f"{_ROOT}clickers"
CLICKERS_ABOUT = f"{_ROOT}clickers:about"
PERIODIC = f"{_ROOT}periodic"
ODD = f"{_ROOT}odd"

SLOTS = 8
"""Most drains of a project that are queued or running at a time. One more slot, with this number, is for tasks that an
annotator waits for.
"""

_RQ_REGISTRIES = ("wip", "failed", "finished", "deferred", "scheduled", "canceled")
SHARED_TYPES: Mapping[str, RedisType] = {
    PROJECTS: "set", UNKNOWN: "zset", PAUSED: "set", CLOCK: "hash", ERRORS: "list", REFUSED: "hash", LEARN: "zset",
    AGAIN: "zset", CONTRACTS: "hash", ENDED: "hash", STAGES: "hash", ODD: "list", UNANSWERED: "list",
    WORKERS: "zset", WORKERS_ABOUT: "hash", LEARNERS: "zset", LEARNERS_ABOUT: "hash",
    CLICKERS: "zset", CLICKERS_ABOUT: "hash", f"{PERIODIC}:looks": "string", f"{PERIODIC}:rounds": "string",
    "rq:queues": "set", "rq:workers": "set",
    **dict.fromkeys(CLICK_QUEUES, "list"),
    **{f"rq:queue:{queue}": "list" for queue in QUEUES},
    **{f"rq:queue:{queue}:intermediate": "list" for queue in QUEUES},
    **{f"rq:workers:{queue}": "set" for queue in QUEUES},
    **{f"rq:{registry}:{queue}": "zset" for queue in QUEUES for registry in _RQ_REGISTRIES},
}  # fmt: skip
"""Type of each key that all projects share, those of RQ with them."""


class _Key:
    """A key that each project has once; its name is that of the attribute."""

    def __init__(self, kind: RedisType) -> None:
        self.kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, keys: ProjectKeys, owner: type) -> str:
        return keys.prefix + self._name


@dataclass(frozen=True)
class ProjectKeys:
    """The keys of one project; the table above says what they hold."""

    project: int

    pending = _Key("zset")
    leases = _Key("hash")
    tries = _Key("hash")
    deaths = _Key("hash")
    failed = _Key("hash")
    pace = _Key("hash")
    created = _Key("string")
    versions = _Key("set")
    served = _Key("string")
    catching = _Key("set")
    walk = _Key("hash")
    stale = _Key("zset")
    walker = _Key("string")
    recount = _Key("hash")
    recounter = _Key("string")
    shown = _Key("string")
    title = _Key("string")
    counted = _Key("string")
    labels = _Key("hash")
    warning = _Key("string")
    card = _Key("string")
    carded = _Key("string")
    left = _Key("set")
    doubts = _Key("zset")
    refresh = _Key("string")
    looked = _Key("string")
    hinted = _Key("set")
    webhook = _Key("string")
    learner = _Key("string")
    learn = _Key("hash")
    learning = _Key("string")
    adapters = _Key("hash")
    refusals = _Key("hash")
    outcomes = _Key("hash")
    judged = _Key("hash")
    verdicts = _Key("hash")
    pointer = _Key("string")
    offer = _Key("string")
    judging = _Key("hash")
    offered = _Key("string")
    images = _Key("hash")
    places = _Key("hash")
    corrected = _Key("set")
    skipped = _Key("set")
    order = _Key("hash")
    ordered = _Key("string")
    resting = _Key("string")

    @property
    def prefix(self) -> str:
        """What all keys of the project begin with: the only key that a script is given."""
        return f"{_ROOT}{self.project}:"

    def done(self, version: str) -> str:
        """Key of the tasks done at a version."""
        return f"{self.prefix}done:{version}"

    def drain(self, slot: int) -> str:
        """Key of a drain slot."""
        return f"{self.prefix}drain:{slot}"

    def named(self) -> list[str]:
        """All keys of the project but `done`, of which there is one for each version."""
        names = [name for name, key in vars(type(self)).items() if isinstance(key, _Key)]
        return [self.prefix + name for name in names] + [self.drain(slot) for slot in range(SLOTS + 1)]


PROJECT_TYPES: Mapping[str, RedisType] = {
    **{name: key.kind for name, key in vars(ProjectKeys).items() if isinstance(key, _Key)},
    "done": "set",
    "drain": "string",
}
"""Type of each key of a project, by the part of its name behind the project's id."""


def project_key_type(key: str) -> RedisType | None:
    """The type a key of a project should have; None where no key of a project has this name."""
    return PROJECT_TYPES.get(key.split(":")[2])


def project_pattern(project: int) -> str:
    """Pattern of all keys of a project."""
    return f"{ProjectKeys(project).prefix}*"


def click_answer(click: str) -> str:
    """Key of the answer to a click."""
    return f"{_ROOT}clicks:{click}"


def periodic_key(purpose: str) -> str:
    """Key of the last turn at something that is done again and again."""
    return f"{PERIODIC}:{purpose}"


def quarantined(key: str) -> str:
    """The name under which a key of a wrong type is kept."""
    return f"{ODD}:{key}"


LUA_KEYS = f"""
local PROJECTS, UNKNOWN, PAUSED, CLOCK = '{PROJECTS}', '{UNKNOWN}', '{PAUSED}', '{CLOCK}'
local ERRORS, REFUSED, LEARN = '{ERRORS}', '{REFUSED}', '{LEARN}'
local ENDED, STAGES = '{ENDED}', '{STAGES}'
local CONTRACT, CONTRACTS = {CONTRACT}, '{CONTRACTS}'
local function prefix_of(project) return '{_ROOT}' .. project .. ':' end
"""
"""The shared keys for scripts, and the prefix of a project's keys; a script adds the rest of their names."""
