"""Write a state folder and a Redis file with the code of the commit that is on PYTHONPATH: `make_state.py FOLDER`.

It imports nothing of this package, because other commits run it; see `python -m tests.upgrade`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from redis import Redis

from backend.outbox_file import OutboxFile
from backend.task_queue import PredictionRequest
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.model_version import ModelVersion, engine_name
from plugin_config.queue.clicks import ClickQueue
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import LearnProject, TaskRef, enqueue_learning, learn_queue
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.offers import Offer, OfferAnswer, ProjectOffers
from plugin_config.queue.order import ImageRecord, Place, ProjectOrder, SeenMark
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.titles import set_title
from plugin_config.queue.totals import Totals
from plugin_config.settings import Settings
from plugin_config.versions.calibrations import CalibrationFile
from plugin_config.versions.manifests import Attempt, Contender, Owner, VerdictRecord, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.versions.verdicts import verdict_of, write_verdict
from plugin_config.vocabulary import parse_vocabulary
from tests.learning_world import corrected_scenes
from worker.lab.benchmarks.counting_server import CONFIG
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.store import TEXTS_FOLDER, TextStore
from worker.service.adapter_store import save_adapter

LABEL_STUDIO, CREATED = "http://label-studio.example:8080", "2026-11-01T08:00:00Z"
LEARNED_AT = "2026-11-02T09:05:00+00:00"
COUNTED = {"red shape": {"accepted": 3, "changed": 1, "deleted": 0, "added": 0}}


def make_versions(settings: Settings, owner: Owner) -> str:
    """What was learned, the pointer to it and the maps of its scores. Returns the name of the adapter."""
    torch.set_num_threads(1)
    segmenter = Segmenter(Encoder("builtin", device="cpu"), store=TextStore(settings.state_path / TEXTS_FOLDER))
    words = parse_vocabulary(CONFIG).words
    adapter = recipe_named("quick").fit(corrected_scenes(segmenter, 1), words, segmenter).at_strength(0.75)
    verdict = VerdictRecord(True, "promoted", {"mean_iou": {}})
    folder = VersionFolder(settings.versions_url, owner)
    manifest = save_adapter(folder, adapter, newest=2, weights=segmenter.encoder.fingerprint, base="zeroshot",
                            digest="c0ffee", learned_from=("7", "9"), verdict=verdict)  # fmt: skip
    attempt = Attempt("d1", 2, "2026-11-02T09:00:00Z", parse_vocabulary(CONFIG).hash, LEARNED_AT, verdict,
                      manifest.name, segmenter.encoder.fingerprint, "c0ffee", {"7": "its server is down"}, LEARNED_AT,
                      COUNTED, {"9": "malformed"})  # fmt: skip
    contender = Contender("lseg", "offered, lseg of drawn:words", LEARNED_AT, VerdictRecord(False, "no better"))
    folder.point(replace(folder.pointer().moved(manifest.name, by="gate"), newest=3, rejected=("beef",),
                         attempt=attempt, contenders={"offered": contender}))  # fmt: skip
    maps = {manifest.name: {"slope": 1.25, "bias": -0.5, "records": 60}}
    CalibrationFile(settings.versions_url, owner).write(engine_name(settings), maps)
    return manifest.name


def make_queue(redis: Redis, settings: Settings, owner: Owner, adapter: str) -> None:
    """Tasks in every state, jobs, and what is remembered of a project."""
    vocabulary = parse_vocabulary(CONFIG)
    zero = str(ModelVersion.of(settings, vocabulary))
    folder, maps = VersionFolder(settings.versions_url, owner), CalibrationFile(settings.versions_url, owner)
    served = ServedCopy(adapter, folder.pointer().serial, settings.versions_url, owner, "", maps.of(adapter),
                        "+2 corrected", "2026-11-02")  # fmt: skip
    version = str(ModelVersion.of(settings, vocabulary, adapter=adapter, learned=served.told))
    pending = PendingTasks(redis, drain_tasks=4, lease_s=30)
    ledger, hints, learning = ProjectLedger(redis), ProjectHints(redis), ProjectLearning(redis, lease_s=30)
    order, offers, adapters = ProjectOrder(redis), ProjectOffers(redis), ServedAdapters(redis)
    refs = [TaskRef(version, task) for task in range(1, 9)]
    pending.add(1, refs)
    pending.confirm_project(1)
    set_title(redis, 1, "pictures")
    for lease in pending.take(1, "gone-1", limit=6):
        task = lease.ref.task
        if task < 3:
            pending.done(1, "gone-1", lease.ref)
        elif task == 3:
            pending.fail(1, "gone-1", lease.ref, "image of task 3: is broken. Mend it.")
        elif task == 6:
            pending.retry(1, "gone-1", lease.ref, "the image's server is slow", most=3)
    pending.add(1, [TaskRef(version, 11)], priority=Priority.OPENED)
    pending.add(2, [TaskRef(zero, 21), TaskRef(zero, 22)])
    pending.confirm_project(2)
    pending.pause(2)
    hints.admit(4)
    ledger.add_version(1, zero)
    ledger.add_version(1, version)
    ledger.start_rollout(1, version)
    ledger.finish_rollout(1, version)
    ledger.set_shown_version(1, version)
    ledger.set_task_count(1, 12)
    ledger.set_label_remarks(1, version, ["label 'wug': model builtin does not know 'wug'"])
    ledger.set_webhook_warning(1, "webhooks are refused")
    ledger.add_leftover(1, 2)
    ledger.add_unconfirmed(1, refs[4])
    hints.record_webhook(1, "ANNOTATION_CREATED")
    hints.hint_tasks(1, [11, 12])
    hints.request_refresh(1)
    pending.ensure_drains(1, urgent=True)
    learning.request_after_pause(1, quiet_s=1)
    learning.set_progress(1, Progress("idle", "promoted", LEARNED_AT))
    adapters.write(1, served)
    adapters.write_outcomes(owner, COUNTED)
    adapters.write_judged(1, {version: COUNTED})
    write_verdict(redis, owner, verdict_of(folder.pointer()))
    offers.answer(1, Offer("offer-0123456789ab", "builtin", "lseg of drawn:words", LEARNED_AT),
                  OfferAnswer("offer-0123456789ab", False, "no better", adapter))  # fmt: skip
    Totals(redis).add_stages({"fetch": 2.0, "embed": 30.0})
    order.belong_to(1, CREATED)
    order.put(1, 1, ImageRecord(version, 1, 0.5, 0.5, {"red shape": 0.7}, "builtin", "AAAA", 0.6))
    order.set_places(1, {1: Place(0, 0.01, "the model is unsure")})
    order.set_seen(1, [7], [8], SeenMark(2, "2026-11-02T09:00:00Z"))
    order.set_basis(1, "b")
    ClickQueue(redis).note_unanswered(1, 5, "nothing is there")
    WorkerPresence(redis).heartbeat("gone-1", {"model": "builtin", "device": "cpu", "tasks": "2", "trouble": ""})
    enqueue_learning(learn_queue(redis), LearnProject(project=1))
    outbox = OutboxFile(settings.state_path / "asked.jsonl")
    outbox.append(PredictionRequest(1, version, (9, 10)))
    outbox.append(PredictionRequest(3, zero, (31,)))


def main(out: Path) -> None:
    """Write the state folder, with a server's Redis file in it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = Settings(model="builtin", label_studio_url=LABEL_STUDIO, state_dir=str(out))
    owner = Owner(LABEL_STUDIO, 1, CREATED, "builtin")
    adapter = make_versions(settings, owner)
    address = embedded_redis(out)
    server = subprocess.Popen(address.command.argv, stdout=subprocess.DEVNULL)
    try:
        while address.command.ready is not None and not address.command.ready():
            time.sleep(0.05)
        with Redis.from_url(address.url) as redis:
            make_queue(redis, settings, owner, adapter)
            time.sleep(1.5)  # its file is written every second
    finally:
        server.terminate()
        server.wait()
    for path in out.glob("redis/*"):  # its socket, and what names this machine's folders
        if path.name != "appendonlydir":
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
