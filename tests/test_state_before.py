"""A state folder and a Redis file written by the commit before the modules moved are served by this one.

`state_of_the_commit_before/make_state.py.txt` made them at commit 1c0ed96: tasks in every state, queued jobs, a learned
version that is served, text embeddings, an outbox, and what Redis holds about a project.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from redis import Redis
from rq.serializers import JSONSerializer

from backend.queue_client import QueueClient
from plugin_config.label_studio.client import Project
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.queue.connection import open_redis
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, learn_queue, predict_queue, refresh_queue
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.quarantine import quarantine_entries
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner, VersionFolder
from plugin_config.versions.served import ServedAdapters
from tests.house import wait_until
from tests.queue_states import time_passes
from tests.stand_ins import StandInContext, context_fixture
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import head_scores
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.store import TEXTS_FOLDER, TextStore
from worker.service.adapters import ProjectAdapters
from worker.service.context import WorkerContext
from worker.service.plain_jobs import PlainQueue
from worker.service.queue_worker import PlainWorker
from worker.service.worker import worker_functions

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

pytestmark = pytest.mark.usefixtures("one_thread")

BEFORE = Path(__file__).parent / "state_of_the_commit_before"
EXPECTED: dict[str, Any] = json.loads((BEFORE / "expected.json").read_text())
VERSION, ZERO_SHOT, ADAPTER = EXPECTED["version"], EXPECTED["zero_shot_version"], EXPECTED["adapter"]
OWNER = Owner(EXPECTED["label_studio"], 1, EXPECTED["created"], "builtin")
WORDS = tuple(tuple(texts) for texts in EXPECTED["words"])


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Of a start on a copy of the state folder, with its Redis file loaded by a server."""
    with tempfile.TemporaryDirectory(prefix="zm-s-") as folder:  # a short path: it holds a socket
        state = Path(folder) / "state"
        shutil.copytree(BEFORE / "state", state)
        address = embedded_redis(state)
        server = subprocess.Popen(address.command.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            ready = address.command.ready
            assert ready is not None
            wait_until(ready, told="Redis answers")
            yield Settings(
                model="builtin", state_dir=str(state), redis_url=address.url, label_studio_url=OWNER.label_studio
            )
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def connection(settings: Settings) -> Iterator[Redis]:
    redis = open_redis(settings.redis_url, connect_s=5, answer_s=5)
    yield redis
    redis.close()


def ref(task: int) -> TaskRef:
    return TaskRef(VERSION, task)


def test_tasks_are_in_the_states_they_were_in(connection: Redis) -> None:
    pending = PendingTasks(connection, drain_tasks=4, lease_s=30)
    counts = pending.counts(1)
    assert (counts.pending, counts.leased, counts.done, counts.failed) == (3, 2, 2, 1)
    assert set(pending.open_refs(1)) == {ref(task) for task in (4, 5, 6, 7, 8)}
    assert pending.failures(1) == {ref(3): "image of task 3: is broken. Mend it."}
    assert (pending.projects(), set(pending.paused_projects())) == ([1, 2], {2})
    assert set(pending.open_refs(2)) == {TaskRef(ZERO_SHOT, 21), TaskRef(ZERO_SHOT, 22)}
    assert quarantine_entries(connection, 10) == []


def test_what_is_remembered_of_a_project_is_known(connection: Redis) -> None:
    ledger, hints = ProjectLedger(connection), ProjectHints(connection)
    assert (ledger.target_version(1), ledger.shown_version(1)) == (VERSION, VERSION)
    assert not ledger.is_rolling_out(1, VERSION)
    assert ledger.versions(1) == {VERSION, ZERO_SHOT}
    assert (ledger.task_count(1), ledger.leftovers(1), set(ledger.unconfirmed(1))) == (12, [2], {ref(5)})
    assert ledger.label_remarks_version(1) == VERSION
    assert ledger.label_remarks(1) == ("label 'wug': model builtin does not know 'wug'",)
    assert ledger.webhook_warning(1) == "webhooks are refused"
    assert sorted(hints.hinted_tasks(1, most=10)) == [11, 12]
    progress = ProjectLearning(connection, lease_s=30).progress(1)
    assert progress is not None
    assert (progress.state, progress.detail) == ("idle", "promoted")
    copy = ServedAdapters(connection).copy(1, "builtin")
    assert copy is not None
    assert (copy.served, copy.owner) == (ADAPTER, OWNER)
    assert WorkerPresence(connection).count() == 0, "its last sign of life is long ago"


def test_the_outbox_is_sent(settings: Settings, connection: Redis) -> None:
    client, pending = QueueClient(settings), PendingTasks(connection, drain_tasks=4, lease_s=30)
    try:
        wait_until(lambda: not (settings.state_path / "asked.jsonl").exists(), told="the outbox is empty")
    finally:
        client.close()
    assert {ref(9), ref(10)} <= set(pending.open_refs(1))
    assert pending.open_refs(3) == [TaskRef(ZERO_SHOT, 31)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    texts = tmp_path_factory.mktemp("state") / TEXTS_FOLDER
    shutil.copytree(BEFORE / "state" / TEXTS_FOLDER, texts)
    return Segmenter(Encoder("builtin", device="cpu"), store=TextStore(texts))


def test_texts_are_not_encoded_again(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(texts: object) -> Any:
        raise AssertionError(texts)

    fresh = Segmenter(segmenter.encoder, store=segmenter._texts._store)
    monkeypatch.setattr(segmenter.encoder, "embed_texts", encode)
    assert fresh._texts.with_background(WORDS).count == len(WORDS) + 1


def adapters(settings: Settings, connection: Redis, segmenter: Segmenter) -> ProjectAdapters:
    return ProjectAdapters(settings, connection, segmenter)


def project(number: int) -> Project:
    return Project(number, "t", EXPECTED["config"], VERSION, 12, EXPECTED["created"])


def test_what_was_learned_scores_as_it_did(settings: Settings, connection: Redis, segmenter: Segmenter) -> None:
    assert segmenter.encoder.fingerprint == EXPECTED["weights"]
    name, adapter = adapters(settings, connection, segmenter).served(project(1), from_disk=True)
    assert name == ADAPTER
    assert adapter is not None
    with np.load(BEFORE / "expected.npz") as stored:
        image, logits, zero_shot = (stored[key] for key in ("image", "logits", "zero_shot"))
    scores = segmenter.score(segmenter.embed([image])[0], WORDS, image)
    torch.testing.assert_close(scores.zero_shot.logits, torch.from_numpy(zero_shot), atol=1e-3, rtol=1e-3)
    found = head_scores(adapter, scores).logits.numpy()
    assert np.abs(found - logits.astype(np.float32)).max() < 0.05  # stored in half precision
    assert (found.argmax(axis=0) == logits.argmax(axis=0)).mean() > 0.999


def test_versions_are_listed_and_the_pointer_reads(settings: Settings) -> None:
    folder = VersionFolder(settings.versions_url, OWNER)
    pointer = folder.pointer()
    assert (folder.names(), pointer.served, pointer.serial, pointer.newest) == ([ADAPTER], ADAPTER, 1, 3)
    assert pointer.rejected == ("beef",)
    assert pointer.attempt is not None
    assert pointer.attempt.missing == {"7": "its server is down"}
    assert pointer.attempt.outcomes["red shape"]["accepted"] == 3


def test_queued_jobs_run_and_open_tasks_are_predicted_with_what_was_learned(
    settings: Settings,
    connection: Redis,
    segmenter: Segmenter,
    context: StandInContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-ins are Label Studio and the model; jobs, queue, pipeline and the served adapter are real."""
    assert [len(queue(connection)) for queue in (predict_queue, refresh_queue, learn_queue)] == [1, 1, 1]
    ours = StandInContext(connection, count=12)
    ours.settings = replace(settings, order=False)  # the stand-in's embeddings are pictures
    ours.adapters = cast("Any", adapters(settings, connection, segmenter))
    monkeypatch.setattr(ours.label_studio, "project", project)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    time_passes(connection)  # or the leases of the worker that is gone would not have run out yet
    ours.pending.sweep()
    try:
        queues = [PlainQueue(queue(connection).name, connection=connection, serializer=JSONSerializer)
                  for queue in (predict_queue, refresh_queue)]  # fmt: skip
        worker = PlainWorker(queues, connection=connection, serializer=JSONSerializer)
        worker.functions = worker_functions(cast("WorkerContext", ours), ours.pipeline)
        worker.stopping = threading.Event()
        worker.work(burst=True, logging_level="WARNING")
        assert ours.pipeline.wait_empty(20)
    finally:
        ours.pipeline.close(grace_s=0.1)
    assert {row for row in ours.stored() if row[0] < 9} == {(task, VERSION) for task in (4, 5, 6, 7, 8)}
    assert all(type(head).__name__ == "QuickAdapter" for head in ours.segmenter.heads)
    assert ours.pending.counts(1).done >= 7
