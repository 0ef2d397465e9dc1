"""The whole loop beside a real Label Studio: annotate, learn, predict again, show, roll back; real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.order import ProjectOrder
from tests.corrections import SQUARES, annotate, served_version, strange_project, versions_of
from tests.faults.stand import Stand, stand
from tests.house import PATIENCE_S, SIZE, House, retrieve, stored, tasks, wait_until
from worker.label_studio.regions import decode_region

ROOT = Path(__file__).resolve().parent.parent
ORDERED_S = 200.0
"""Within this time after a promotion, or a correction, annotators get another order, on a busy machine. No periodic
look helps here, nor the end of the rest of five minutes, after which an order is made in any case."""


@dataclass
class Running:
    """The Label Studio that serves the whole test run."""

    url: str


def wait_stored(it: Stand, project: int, ids: list[int], version: str) -> None:
    def there() -> bool:
        found = stored(it.house, project)
        return all(found[task] == [version] for task in ids)

    wait_until(there, told=f"version {version} alone on tasks {ids}")


def wait_promoted(it: Stand, project: int, *, number: int = 1) -> str:
    """Wait until version `number` is served; returns its version string."""
    folder = versions_of(it.house, project, it.settings.versions_url)

    def promoted() -> bool:
        pointer = folder.pointer()
        if pointer.attempt is not None and pointer.served == ZEROSHOT:
            raise AssertionError(f"not promoted: {pointer.attempt.verdict.reason}")
        return pointer.served.startswith(f"a{number}-")

    wait_until(promoted, told="a promotion")
    return served_version(it.house, project, it.settings.versions_url)


def overlap(it: Stand, task: int, number: int) -> float:
    """Mean IoU of what is stored for a task with the squares of picture `number`."""
    (prediction,) = it.house.label_studio.predictions(task)
    width, height = SIZE
    ious = []
    for label, left in SQUARES.items():
        truth = np.zeros((height, width), dtype=bool)
        truth[20 + 2 * number : 67 + 2 * number, left : left + 47] = True
        rows = [row for row in prediction.result if row["value"]["brushlabels"] == [label]]
        masks = [decode_region(row, width, height) for row in rows]
        found = np.any(masks, axis=0) if masks else np.zeros_like(truth)
        ious.append((found & truth).sum() / (found | truth).sum())
    return float(np.mean(ious))


def command(it: Stand, *arguments: str) -> str:
    env = {**os.environ, "REDIS_URL": it.house.services.redis_url, "MODEL": "builtin"}
    done = subprocess.run([sys.executable, "-m", "plugin_config.cli", *arguments], env=env, cwd=ROOT,
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def next_task(it: Stand, project: int) -> int:
    """What Label Studio's page gets at "Label All Tasks"."""
    params = {"id": "next_task", "project": project}
    return int(it.house.label_studio.request("POST", "/api/dm/actions/", json={}, params=params)["id"])


def first_of(it: Stand, project: int, expected: list[int]) -> int:
    """The first in the order that was chosen, which holds these tasks as Label Studio's scores will have them: they are
    written after it."""
    order = ProjectOrder(it.house.redis)

    def written() -> bool:
        scores = {task.id: task.score for task in it.house.label_studio.all_tasks(project) if task.id in expected}
        return list(order.places(project)) == sorted(expected, key=lambda task: scores[task] or 0.0)

    wait_until(written, told="the scores of the order")
    return next(iter(order.places(project)))


def test_annotations_teach_what_the_words_could_not_and_a_rollback_brings_the_old_masks_back(house: House) -> None:
    with stand(Running(house.label_studio.url), learners=1, reconcile_s=3600.0, finetune_every=4,
               finetune_quiet_s=1.0) as it:  # fmt: skip
        project = strange_project(it.house, count=7, name="loop")
        retrieve(it.house, project)
        ids = [task.id for task in tasks(it.house, project)]
        old = served_version(it.house, project, it.settings.versions_url)
        wait_stored(it, project, ids, old)
        before = [overlap(it, task, number) for number, task in enumerate(ids)]
        for number in range(4):
            annotate(it.house, ids[number], number)
        # Nothing but webhooks tells of annotations here: the next reconciliation is an hour away.
        new, promoted_s, logged = wait_promoted(it, project), time.monotonic(), len(it.log("worker-1"))
        assert new != old
        rest = ids[4:]
        wait_stored(it, project, rest, new)
        assert [stored(it.house, project)[task] for task in ids[:4]] == [[old]] * 4, "of annotated tasks they stay"
        wait_until(lambda: it.house.label_studio.project(project).model_version == new, told="the new version shown")
        chosen = "3 of 3 open images are next"  # those that are predicted by the new version
        wait_until(lambda: chosen in it.log("worker-1")[logged:], told="the order of what is left",
                   within_s=max(0.0, ORDERED_S - (time.monotonic() - promoted_s)))  # fmt: skip
        assert first_of(it, project, rest) == next_task(it, project), "the new version's scores are places, too"
        after = [overlap(it, task, number) for number, task in enumerate(ids)]
        assert np.mean(after[4:]) > max(0.8, 0.3 + np.mean(before[4:])), (before, after)
        asked = it.house.label_studio.request("GET", "/api/ml/", params={"project": project})
        assert [row["state"] for row in asked] == ["CO"], "connected"
        name = versions_of(it.house, project, it.settings.versions_url).pointer().served
        assert name in command(it, "versions", str(project))
        assert f"zeroshot is served again instead of {name}" in command(it, "rollback", str(project))
        wait_stored(it, project, rest, old)
        wait_until(lambda: it.house.label_studio.project(project).model_version == old, told="the old version shown")
        assert [overlap(it, task, 4 + number) for number, task in enumerate(rest)] == before[4:], "the very same masks"
        assert '"served": "zeroshot"' in command(it, "status", "--json")
        wait_until(lambda: set(ProjectOrder(it.house.redis).places(project)) == set(rest), told="the order once more")
        corrected = next_task(it, project)
        annotate(it.house, corrected, ids.index(corrected))
        left = [task for task in rest if task != corrected]
        wait_until(lambda: set(ProjectOrder(it.house.redis).places(project)) == set(left), within_s=ORDERED_S,
                   told="an order without what was just corrected")  # fmt: skip
        assert first_of(it, project, left) == next_task(it, project)


def test_without_any_webhook_annotations_are_found_and_the_button_does_not_wait_for_enough(house: House) -> None:
    with stand(Running(house.label_studio.url), learners=1, reconcile_s=2.0, finetune_every=3,
               finetune_quiet_s=1.0) as it:  # fmt: skip
        project = strange_project(it.house, count=5, name="silent")
        api = it.house.label_studio
        for hook in api.request("GET", "/api/webhooks/", params={"project": project}):
            api.request("DELETE", f"/api/webhooks/{hook['id']}/")
        retrieve(it.house, project)
        ids = [task.id for task in tasks(it.house, project)]
        for number in range(3):
            annotate(it.house, ids[number], number)
        first = wait_promoted(it, project)
        wait_stored(it, project, ids[3:], first)
        assert ProjectHints(it.house.redis).last_webhook(project) is None
        annotate(it.house, ids[3], 3)
        learning = ProjectLearning(it.house.redis, lease_s=4)
        wait_until(lambda: "1 of 3" in getattr(learning.progress(project), "detail", ""), told="waiting for enough")
        (backend,) = api.request("GET", "/api/ml/", params={"project": project})
        api.request("POST", f"/api/ml/{backend['id']}/train", json={})
        wait_until(lambda: getattr(learning.progress(project), "state", "") == "learning", told="learning from four")
