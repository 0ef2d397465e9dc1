"""Projects in every state, put into Redis and on disk by the queue's own functions, for tests of the status page."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from redis import Redis

from plugin_config.model_version import ZEROSHOT, adapter_name
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.titles import set_title
from plugin_config.versions.manifests import Attempt, Manifest, Owner, Pointer, VerdictRecord, VersionFolder, now
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.versions.verdicts import verdict_of, write_verdict

LABEL_STUDIO = "http://labels.example.com:8080"
PROJECT = 7
VERSION = "builtin-zeroshot-0123abcd"
LEARNED = "builtin-a2-{}-0123abcd"
_TITLES = ("Street scenes", "Leaves and bark", "Harbour cranes", "Cats at night", "Rock samples")


def fill(redis: Redis, *, projects: int, tasks: int) -> None:
    """So many projects with so many tasks in all, in every state, a worker and a learner."""
    pending = PendingTasks(redis, drain_tasks=8, lease_s=3600)
    adapters, ledger, learning = ServedAdapters(redis), ProjectLedger(redis), ProjectLearning(redis, lease_s=3600)
    for number in range(projects):
        project, each = PROJECT + number, tasks // projects
        refs = [TaskRef(VERSION, 1000 * project + task) for task in range(1, each + 1)]
        pending.add(project, refs)
        pending.confirm_project(project)
        leases = pending.take(project, "worker-1", limit=max(2, each // 2))
        for lease in leases[:-2]:
            pending.done(project, "worker-1", lease.ref)
        reason = f"task {leases[-2].ref.task}: its image cannot be fetched (HTTP 404). Correct its address, then retry."
        pending.fail(project, "worker-1", leases[-2].ref, reason)
        set_title(redis, project, f"{_TITLES[number % len(_TITLES)]} {number // len(_TITLES) or ''}".strip())
        adapters.write(project, ServedCopy(ZEROSHOT, 0, "/nowhere", owner_of(project)))
        ledger.set_task_count(project, each)
        learning.set_progress(project, Progress("waiting", "1 of 3 new or changed annotated images are there", now()))
    ledger.set_label_remarks(PROJECT, VERSION, ["label 'wug': the model knows none of its words; describe it"])
    redis.hincrby("zeromask:clock", "now", 6000)  # the five seconds of the work are over
    keep_alive(redis)


def keep_alive(redis: Redis) -> None:
    """Heartbeats of a worker that also answers clicks, and of a learner."""
    about = {"model": "builtin", "device": "cpu", "tasks": "2", "trouble": ""}
    for kind in ({}, {"clickers": True}):
        WorkerPresence(redis, **kind).heartbeat("worker-1", about)
    WorkerPresence(redis, learners=True).heartbeat("learner-1", {**about, "tasks": "0"})


def owner_of(project: int) -> Owner:
    return Owner(LABEL_STUDIO, project, "2026-01-31T12:00:00Z", "builtin")


def learn_versions(redis: Redis, place: Path, project: int = PROJECT, *, count: int = 3) -> list[str]:
    """Versions of a project on disk, the last but one served; returns their names."""
    folder, names = VersionFolder(str(place), owner_of(project)), list[str]()
    for number in range(1, count + 1):
        before, after = 0.48 + 0.06 * number, 0.54 + 0.06 * number
        labels = {"cat": {"served": before, "candidate": after + 0.02}, "tree": {"served": 0.61, "candidate": 0.59},
                  "background": {"served": 0.9, "candidate": 0.9}}  # fmt: skip
        figures = {"mean_iou": {"served": before, "candidate": after}, "labels": labels,
                   "judged_on": {"held_out": 3 + number, "cross_validated": 2}}  # fmt: skip
        reason = f"promoted at strength 0.75: mean IoU {before:.3f} -> {after:.3f} on {3 + number} images."
        data = f"tensors {number}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        name = adapter_name(number, sha256)
        folder.add(Manifest(name, folder.owner, "0123", "quick", {}, names[-1] if names else ZEROSHOT,
                            f"2026-11-2{number}T12:00:00+00:00", f"digest {number}", ("1", "2", "3"),
                            VerdictRecord(True, reason, figures), sha256, len(data)), data)  # fmt: skip
        names.append(name)
    verdict = VerdictRecord(False, "kept what is served: label 'tree' would be worse (0.61 -> 0.55).")
    attempt = Attempt("d", 12, "2026", "v", now(), verdict)
    pointer = replace(Pointer(newest=count, attempt=attempt).moved(names[-2], by="gate"))
    folder.point(pointer)
    adapters = ServedAdapters(redis)
    adapters.write(project, ServedCopy(names[-2], pointer.serial, str(place), folder.owner))
    write_verdict(redis, folder.owner, verdict_of(pointer))
    adapters.write_judged(project, {
        VERSION: {"cat": {"accepted": 6, "changed": 3, "deleted": 1, "added": 2}},
        VERSION.replace("zeroshot", names[0]): {"cat": {"accepted": 9, "changed": 1, "deleted": 0, "added": 0},
                                                "tree": {"accepted": 1, "changed": 3, "deleted": 0, "added": 1}},
    })  # fmt: skip
    return names
