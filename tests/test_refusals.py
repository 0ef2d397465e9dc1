"""A version that one worker cannot use and another can: it is served by those that can, and never to and fro."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
from redis import Redis

from plugin_config.background import DutyWatch
from plugin_config.errors import LearningError, QueueUnavailable
from plugin_config.model_version import ZEROSHOT
from plugin_config.overview.control import QueueControl
from plugin_config.queue.jobs import DrainProject, TaskRef, predict_queue
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.slots import URGENT_SLOT
from plugin_config.versions.refusals import Refusal, VersionRefusals
from plugin_config.versions.served import ServedAdapters, ServedCopy
from tests.learning_house import WEIGHTS, LearningHouse, learning_house_fixture, segmenter_with
from tests.stand_ins import ALL, PROJECT, StandInContext, context_fixture, version
from worker.service import handover
from worker.service.adapters import ProjectAdapters
from worker.service.admission import drain
from worker.service.context import WorkerContext
from worker.service.leases import Leases

__all__ = ["context_fixture", "learning_house_fixture"]  # pytest finds the fixtures by their being here

NAN = LearningError("what was learned", "gives no numbers (NaN or infinite)", "Learn again.")


class Worker:
    """What one process of a pool serves; it lives from its start until it `ends`."""

    def __init__(self, house: LearningHouse, name: str, *, weights: str = WEIGHTS, learner: bool = False) -> None:
        self.house, self.name = house, name
        self.adapters = ProjectAdapters(
            house.settings, house.redis, segmenter_with(weights), learner=learner, worker=name
        )
        self._presence = WorkerPresence(house.redis, learners=learner)
        self.beat()

    def beat(self) -> None:
        self._presence.heartbeat(self.name, {"model": "builtin", "trouble": self.adapters.trouble()})

    def end(self) -> None:
        self._presence.remove(self.name)

    def look(self, *, from_disk: bool = False) -> str:
        """Look as a drain does, or from disk as a reconcile; the version, or "left"."""
        if not from_disk and self.adapters.leaves(PROJECT):
            return "left"
        name, adapter = self.adapters.served(self.house.label_studio.project(PROJECT), from_disk=from_disk)
        return "left" if adapter is None and name != ZEROSHOT else name

    def meets_nan(self, name: str) -> None:
        self.adapters.refuse(self.house.label_studio.project(PROJECT), name, NAN)


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    """With a version that is served."""
    learning_house.annotate(3, digest="one")
    learning_house.look()
    return learning_house


@pytest.fixture
def able(house: LearningHouse) -> Worker:
    return Worker(house, "able")


@pytest.fixture
def refuser(house: LearningHouse) -> Worker:
    made = Worker(house, "refuser")
    made.meets_nan(house.served)
    return made


@pytest.fixture
def written(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Redis' copy was made to name, one write after the other."""
    found, write = list[str](), ServedAdapters.write

    def note(self: ServedAdapters, project: int, copy: ServedCopy) -> None:
        found.append(copy.served)
        write(self, project, copy)

    monkeypatch.setattr(ServedAdapters, "write", note)
    return found


def copy_of(house: LearningHouse) -> ServedCopy:
    found = ServedAdapters(house.redis).copy(PROJECT, "builtin")
    assert found is not None
    return found


def look_in_turn(*workers: Worker, looks: int = 10) -> set[str]:
    """What these predict at, at drains and reconciles in turn."""
    found = set()
    for number in range(looks):
        for worker in workers:
            found.add(worker.look(from_disk=number % 2 == 1))
            worker.beat()
    return found


def test_what_one_worker_refuses_stays_served_by_the_other(
    house: LearningHouse, able: Worker, refuser: Worker, written: list[str]
) -> None:
    assert look_in_turn(refuser) == {"left"}
    assert look_in_turn(able) == {house.served}
    look_in_turn(refuser, able, refuser)
    assert (written, copy_of(house).served, copy_of(house).trouble) == ([], house.served, "")


def test_a_worker_with_other_weights_leaves_a_version_to_those_that_have_them(
    house: LearningHouse, able: Worker, written: list[str]
) -> None:
    odd = Worker(house, "odd", weights="other")
    assert odd.look() == "left"
    assert look_in_turn(odd, able) == {"left", house.served}
    assert written == []
    assert "other weights" in odd.adapters.trouble()


def test_where_all_workers_refuse_it_the_project_is_served_zero_shot(
    house: LearningHouse, able: Worker, refuser: Worker, written: list[str]
) -> None:
    look_in_turn(refuser, able)
    able.meets_nan(house.served)
    look_in_turn(able, refuser, looks=1)
    assert look_in_turn(refuser, able) == {ZEROSHOT}
    assert written == [ZEROSHOT]
    assert "gives no numbers" in copy_of(house).trouble
    house.look(pressed=True)  # the learner reads the disk, where the pointer names the version
    assert copy_of(house).served == ZEROSHOT
    fresh = Worker(house, "fresh")
    assert fresh.look(from_disk=True) == house.served
    assert look_in_turn(refuser, able, fresh) == {"left", house.served}
    assert written == [ZEROSHOT, house.served]


def test_the_death_of_the_only_able_worker_and_its_return(
    house: LearningHouse, able: Worker, refuser: Worker, written: list[str]
) -> None:
    look_in_turn(refuser, able)
    able.end()
    assert look_in_turn(refuser) == {ZEROSHOT}
    able.beat()
    assert able.look(from_disk=True) == house.served
    assert look_in_turn(refuser, able) == {"left", house.served}
    assert written == [ZEROSHOT, house.served]


def test_a_worker_that_is_started_again_tries_it_anew(house: LearningHouse, refuser: Worker) -> None:
    assert refuser.look() == ZEROSHOT
    refuser.end()
    assert Worker(house, "its successor").look(from_disk=True) == house.served


@pytest.mark.parametrize("about", [{"model": "builtin"}, {"model": "RN50/openai"}])
def test_a_worker_of_an_earlier_release_counts_and_one_of_another_model_does_not(
    house: LearningHouse, refuser: Worker, about: dict[str, str]
) -> None:
    WorkerPresence(house.redis).heartbeat("old", about)
    assert refuser.look() == ("left" if about["model"] == "builtin" else ZEROSHOT)


@pytest.mark.parametrize("working", [True, False])
def test_a_learner_that_cannot_use_it_changes_nothing(house: LearningHouse, written: list[str], working: bool) -> None:
    if working:
        Worker(house, "able")
    learner = Worker(house, "learner", weights="other", learner=True)
    for from_disk in (True, False):
        assert learner.adapters.served(house.label_studio.project(PROJECT), from_disk=from_disk) == (ZEROSHOT, None)
    assert (written, copy_of(house).served, learner.adapters.trouble()) == ([], house.served, "")
    assert house.redis.hlen(ProjectKeys(PROJECT).refusals) == 0


def test_a_damaged_file_is_served_by_nobody(house: LearningHouse, able: Worker, refuser: Worker, tmp_path: Any) -> None:
    (path,) = tmp_path.rglob("adapter.safetensors")
    path.write_bytes(b"")
    assert able.look(from_disk=True) == ZEROSHOT
    assert "damaged" in copy_of(house).trouble


def test_the_status_names_the_worker_the_version_and_the_reason(
    house: LearningHouse, able: Worker, refuser: Worker
) -> None:
    look_in_turn(refuser, able)
    process: Any = SimpleNamespace(
        settings=house.settings, segmenter=SimpleNamespace(encoder=SimpleNamespace(device="cpu")),
        leases=SimpleNamespace(held=int), click="", trouble="", outdated="", watch=DutyWatch(),
        adapters=refuser.adapters,
    )  # fmt: skip
    WorkerPresence(house.redis).heartbeat("refuser", WorkerContext.about(process))
    rows = {row.name: row.trouble for row in QueueControl(house.redis, house.settings).state().workers}
    assert rows["able"] == ""
    assert f"version {house.served} of project {PROJECT} gives no numbers" in rows["refuser"]
    assert "settings and weights of the others, or stop it." in rows["refuser"]
    ServedAdapters(house.redis).write(PROJECT, replace(copy_of(house), served=ZEROSHOT))
    assert refuser.adapters.trouble() == "", "it is not served any more"


def test_looks_leave_no_traces_in_a_refusal(house: LearningHouse, able: Worker, refuser: Worker) -> None:
    folder, depths = house.folder, set()
    for _ in range(20):
        refuser.look(from_disk=True)
        with pytest.raises(LearningError) as caught:
            refuser.adapters.adapter(folder, house.served)
        depths.add(_depth(caught.value.__traceback__))
    assert len(depths) == 1


def _depth(trace: TracebackType | None) -> int:
    return 0 if trace is None else 1 + _depth(trace.tb_next)


def test_a_refusal_is_kept_while_redis_is_away(
    house: LearningHouse, able: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    name = house.served
    with monkeypatch.context() as patch:
        for method in ("copy", "served"):
            patch.setattr(ServedAdapters, method, away)
        able.meets_nan(name)
    assert able.look() == ZEROSHOT


def test_notes_are_few_short_and_go_with_their_workers_and_the_project(house: LearningHouse, refuser: Worker) -> None:
    key, notes = ProjectKeys(PROJECT).refusals, VersionRefusals(house.redis, "builtin")
    for number in range(50):
        notes.note(PROJECT, f"dead {number}", Refusal(house.served, "x" * 10_000))
    refuser.look()
    assert house.redis.hkeys(key) == [b"refuser"]
    assert all(len(row) < 1000 for row in house.redis.hvals(key))
    ledger = ProjectLedger(house.redis)
    ledger.belong_to(PROJECT, "2026-01-01")
    ledger.belong_to(PROJECT, "2026-02-02")
    assert not house.redis.exists(key)
    refuser.adapters.refuse(house.label_studio.project(PROJECT), house.served, NAN)
    notes.note(PROJECT, "refuser", Refusal(house.served, "x"))
    house.resident.pending.forget_project(PROJECT)
    assert not house.redis.exists(key)


@pytest.mark.parametrize(
    "row", [b"\xff", b"null", b"[]", b"{}", b'{"version": 5, "reason": ""}', b'{"version": "a1", "more": 1}']
)
def test_a_note_that_cannot_be_read_is_none(house: LearningHouse, able: Worker, refuser: Worker, row: bytes) -> None:
    house.redis.hset(ProjectKeys(PROJECT).refusals, "able", row)
    assert look_in_turn(refuser, able) == {"left", house.served}


def test_earlier_releases_read_what_is_served_as_before(house: LearningHouse, able: Worker, refuser: Worker) -> None:
    look_in_turn(able, refuser)
    row: Any = house.redis.hget(ProjectKeys(PROJECT).adapters, "builtin")
    assert set(json.loads(row)) <= {"served", "serial", "place", "owner", "trouble", "calibration", "learned", "made"}


class Pool:
    """Two processes that predict, over one Redis and one Label Studio; the adapter gives NaN in the second."""

    def __init__(self, house: LearningHouse) -> None:
        self.house, self.redis = house, house.redis
        self.able, self.refuser = self._make("able"), self._make("refuser")

        def segment(*args: Any, head: Any = None, **others: Any) -> Any:
            if head is not None:
                raise NAN
            return plain(*args, head=head, **others)

        model: Any = self.refuser.segmenter
        plain, model.segment = model.segment, segment

    def _make(self, name: str) -> StandInContext:
        made: Any = StandInContext(self.redis)
        made.name, made.settings = name, replace(self.house.settings, order=False)
        made.leases, made.label_studio = Leases(made.pending, name), self.house.label_studio
        made.adapters = Worker(self.house, name).adapters
        found: StandInContext = made
        return found

    @property
    def version(self) -> str:
        return ProjectLedger(self.redis).target_version(PROJECT)

    def queued(self) -> list[DrainProject]:
        """The drains that wait, as the next worker would take them."""
        return [DrainProject.from_json(job.args[0]) for job in predict_queue(self.redis).jobs]

    def take(self, context: StandInContext) -> DrainProject:
        """Let a worker take the next drain."""
        job = predict_queue(self.redis).jobs[0]
        found = DrainProject.from_json(job.args[0])
        predict_queue(self.redis).remove(job)
        drain(context, context.pipeline, found)  # type: ignore[arg-type]
        assert context.pipeline.wait_empty(30)
        return found


@pytest.fixture
def pool(house: LearningHouse, context: StandInContext) -> Iterator[Pool]:
    made = Pool(house)
    made.able.reconcile()
    made.able.pending.cancel(PROJECT, made.able.pending.open_refs(PROJECT))
    yield made
    for one in (made.able, made.refuser):
        one.pipeline.close(grace_s=0.1)


def test_the_tasks_of_a_worker_that_refuses_are_done_by_the_other(pool: Pool, written: list[str]) -> None:
    pool.able.pending.add(PROJECT, [TaskRef(pool.version, task) for task in ALL], priority=Priority.OPENED)
    pool.able.pending.ensure_drains(PROJECT)
    pool.take(pool.refuser)
    assert pool.queued()[0].slot == URGENT_SLOT, "it has met NaN, and an annotator waits"
    for _ in range(20):
        if not pool.able.pending.counts(PROJECT).pending:
            break
        if not pool.queued():
            time.sleep(2 * handover._PAUSE_S)
        pool.take(pool.refuser)
        assert pool.refuser.leases.held() == 0
        if pool.queued():
            pool.take(pool.able)
    assert pool.able.stored() == [(task, pool.version) for task in ALL]
    assert pool.able.pending.counts(PROJECT).failed == 0
    assert (written, ZEROSHOT in pool.version) == ([], False)


@pytest.mark.parametrize("slot", [0, URGENT_SLOT])
def test_a_drain_is_passed_on_at_once_but_not_again_and_again(
    pool: Pool, slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.refuser.stopping, "wait", lambda *_: pytest.fail("other jobs wait behind this one"))
    monkeypatch.setattr(pool.refuser.leases, "take", lambda *_, **__: pytest.fail("the others are to have them"))
    pool.refuser.adapters.refuse(pool.house.label_studio.project(PROJECT), pool.house.served, NAN)
    pool.able.pending.add(PROJECT, [TaskRef(pool.version, 1)], priority=Priority.OPENED)
    pool.able.pending.ensure_drains(PROJECT, urgent=slot == URGENT_SLOT)
    taken, started = list[int](), time.monotonic()
    while time.monotonic() - started < 5 * handover._PAUSE_S:
        if pool.queued():
            taken.append(pool.take(pool.refuser).slot)
    assert taken[:2] == [slot, slot], "at once, and urgent stays urgent"
    assert 2 < taken.count(slot) <= len(taken) < 40
    assert pool.able.pending.tries(PROJECT, TaskRef(pool.version, 1)) == 0
    time.sleep(2 * handover._PAUSE_S)
    assert pool.queued()
    assert not [name for name in threading.enumerate() if isinstance(name, threading.Timer)]
    assert pool.take(pool.able).slot == slot
    assert pool.able.stored() == [(1, pool.version)]


def test_a_worker_that_refuses_reconciles_for_the_others(pool: Pool, redis: Redis) -> None:
    pool.refuser.adapters.refuse(pool.house.label_studio.project(PROJECT), pool.house.served, NAN)
    ledger, served = ProjectLedger(redis), pool.version
    ledger.add_version(PROJECT, version())
    for task in ALL:
        pool.able.label_studio.create_prediction(task, [], score=0.5, version=version())
    ledger.start_rollout(PROJECT, version())
    ledger.finish_rollout(PROJECT, version())
    ledger.set_label_remarks(PROJECT, "not yet of this version", [])
    pool.refuser.reconcile()
    assert (pool.version, ledger.label_remarks_version(PROJECT)) == (served, "not yet of this version")
    assert {ref.version for ref in pool.able.pending.open_refs(PROJECT)} == {served}
