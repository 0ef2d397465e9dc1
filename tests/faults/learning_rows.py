"""The process that learns, killed at any moment: it costs neither a correction nor what is served."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.learning import ProjectLearning
from plugin_config.versions.manifests import Pointer, VersionFolder
from plugin_config.vocabulary import parse_vocabulary
from tests.corrections import annotate, strange_project, versions_of
from tests.faults.stand import Row, Serving, Stand, stand, wait_for
from worker.service.trainer.corrections import corrections_digest

_BEGINS_S, _KEEPS_S, _LEARNS_S = 600.0, 60.0, 900.0
_LONGEST_S = 12.0  # about what reading and learning from a handful of images takes on an idle core


def finetune_killed(server: Serving, scale: float) -> Row:
    """kill -9 of the process that learns, at random moments, while annotations keep coming."""
    kills, chance = max(2, round(20 * scale)), random.Random(11)
    with stand(server, learners=1, finetune_every=1, finetune_quiet_s=0.5) as it:
        project = strange_project(it.house, count=kills + 4, name="learner killed")
        ids = it.task_ids(project)
        folder = versions_of(it.house, project, it.settings.versions_url)
        learning = ProjectLearning(it.house.redis, lease_s=it.settings.lease_s)
        for number, task in enumerate(ids[:3]):
            annotate(it.house, task, number)
        wait_for(lambda: folder.pointer().served != ZEROSHOT, within_s=_LEARNS_S, told="a first version")
        killed, moments = 0, []
        for number, task in enumerate(ids[3:-1], start=3):
            annotate(it.house, task, number)
            wait_for(lambda: _learns(it, project), within_s=_BEGINS_S, told="the learner at work")
            if number % 4 == 0:  # the moment at which a version is written, where that comes soon enough
                wait_for(lambda: "keeps" in _told(learning, project) or not _learns(it, project), within_s=_KEEPS_S)
                time.sleep(chance.uniform(0, 0.03))
            else:
                time.sleep(chance.uniform(0, _LONGEST_S))
            moments.append(_told(learning, project))
            killed += it.kill("learner-1")
            _look_whole(folder)
        wait_for(lambda: _all_learned(it, project, folder), within_s=_LEARNS_S, told="learning from everything")
        pointer = _look_whole(folder)
        learned = pointer.attempt.tasks if pointer.attempt else 0
        given = len(ids) - 1
        counted = Counter(told.split(" ", 1)[0] for told in moments)
        at = ", ".join(f"{number} when it {told}" for told, number in counted.most_common())
        note = (f"{killed} x kill -9 of the process that learns, at random moments ({at}), an annotation before each; "
                f"what was served was whole each time; served in the end: {pointer.served}. Submitted are annotated "
                "images, predicted those the last learning has read; real Label Studio")  # fmt: skip
        return Row("fine-tune kill -9", given, learned, 0, 0, given - learned, 0.0, note)


def _look_whole(folder: VersionFolder) -> Pointer:
    """Raises LearningError where what is served, or any version, is not whole."""
    pointer = folder.pointer()
    for name in {*folder.names(), pointer.served} - {ZEROSHOT}:
        folder.adapter(name)
    return pointer


def _all_learned(it: Stand, project: int, folder: VersionFolder) -> bool:
    attempt, api = folder.pointer().attempt, it.house.label_studio
    vocabulary = parse_vocabulary(api.project(project).label_config)
    return attempt is not None and attempt.digest == f"{corrections_digest(api, project)}-{vocabulary.hash}"


def _learns(it: Stand, project: int) -> bool:
    """Whether the process that runs now holds the project; what a dead one said last stays for a while."""
    held: Any = it.house.redis.get(f"zeromask:{project}:learner") or b""
    return it.lives("learner-1") and f"-{it.house.supervisor.pid('learner-1')}-" in held.decode()


def _told(learning: ProjectLearning, project: int) -> str:
    found = learning.progress(project)
    return found.detail if found else ""
