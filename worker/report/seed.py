"""`zeromask seed-wrong PROJECT`: put wrong regions into predictions, so that the report tells how many are caught."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from rich.console import Console

from plugin_config.closed_output import run_command
from plugin_config.errors import (
    ImageUnavailable,
    LabelStudioError,
    RegionError,
    SettingsError,
    TaskDataError,
    ZeromaskError,
)
from plugin_config.label_studio.client import LabelStudio, Project, Task
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.model_version import ModelVersion
from plugin_config.printable import printable
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.label_studio.picture_regions import item_id
from worker.label_studio.seeded import is_seeded, seed_region
from worker.label_studio.task_images import images_of


def main(arguments: Sequence[str]) -> int:
    """Seed wrong regions, or take them out again. Returns 0; 1 when fewer were seeded than asked for; 2 on an error."""
    console = Console(stderr=True)
    parser = argparse.ArgumentParser(prog="zeromask seed-wrong", description="Put wrong regions into predictions of "
                                     "tasks that nobody has annotated; `zeromask report` tells how many are caught. "
                                     "One that is left in is in your annotations.")  # fmt: skip
    parser.add_argument("project", type=int, help="the project's number, as in the address of its page")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="tasks, one region each (default: "
                        "%(default)s)")  # fmt: skip
    parser.add_argument("--remove", action="store_true", help="take them out of tasks nobody has annotated yet")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    options = parser.parse_args(arguments)
    tasks = list[int]()
    try:
        if options.count < 1:
            raise SettingsError("--count", "must be at least 1", "Give another number.")
        settings = Settings.from_env(os.environ).require("label_studio_url", "label_studio_api_key")
        with label_studio_of(settings) as label_studio:
            project = label_studio.project(options.project)
            if options.remove:
                found = remove_seeded(label_studio, project)
            else:
                found = seed_tasks(label_studio, project, options.count)
            for task in found:  # one by one, so that what was done before an error is known
                tasks.append(task)
    except ZeromaskError as error:
        console.print(f"zeromask seed-wrong: {printable(error)}", style="red", markup=False)
        if tasks and not options.remove:
            console.print(f"It broke off. Seeded so far: tasks {', '.join(map(str, tasks))}. `zeromask seed-wrong "
                          f"{options.project} --remove` takes these masks out.", markup=False)  # fmt: skip
        return 2
    if options.json:
        sys.stdout.write(json.dumps({"project": options.project, "tasks": tasks}) + "\n")
    else:
        done = "without a wrong region again" if options.remove else "with a wrong region"
        named = ", ".join(map(str, tasks)) or "none"
        sys.stdout.write(f"project {options.project}: {len(tasks)} tasks {done}: {named}\n")
    return 0 if options.remove or len(tasks) == options.count else 1


def seed_tasks(label_studio: LabelStudio, project: Project, count: int) -> Iterator[int]:
    """Put a wrong region into the shown predictions of tasks without annotations and drafts, in an order that a hash
    gives. Who has a task open already is not shown it.

    Args:
        label_studio: the client.
        project: whose tasks.
        count: how many tasks.

    Returns:
        the id of each task, once its region is stored; fewer than `count` where no others have a prediction with a
        region that can be moved.

    Raises:
        SettingsError: the project shows no predictions of Zeromask.
        LabelingConfigError: its labels are none that Zeromask draws.
        LabelStudioError: Label Studio does not answer, or refuses.
    """
    if ModelVersion.parse(project.model_version) is None:
        remedy = "Let a worker predict its tasks first."
        raise SettingsError(f"project {project.id}", "shows no predictions of Zeromask", remedy)
    vocabulary = parse_vocabulary(project.label_config)

    def seeded(task: Task, prediction: StoredPrediction) -> list[object] | None:
        result = _seeded_result(label_studio, project, vocabulary, task, prediction)
        return None if result is None or _has_drafts(label_studio, task) else result

    return islice(_replace_results(label_studio, project, seeded), count)


def remove_seeded(label_studio: LabelStudio, project: Project) -> Iterator[int]:
    """Take seeded regions out of the predictions of tasks without annotations; gives the id of each task, once it is
    done.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses.
    """

    def cleaned(_: Task, prediction: StoredPrediction) -> list[object] | None:
        kept = [item for item in prediction.result if not is_seeded(item_id(item))]
        return list(kept) if len(kept) < len(prediction.result) else None

    return _replace_results(label_studio, project, cleaned)


def _replace_results(
    label_studio: LabelStudio, project: Project, changed: Callable[[Task, StoredPrediction], list[object] | None]
) -> Iterator[int]:
    """Store what `changed` makes of the shown prediction of each task without annotations, None = leave it; yields the
    id of each task so changed. A task that is gone, or was annotated meanwhile, is passed over.
    """
    for task in _unannotated(label_studio, project):
        try:
            prediction = _shown_prediction(label_studio, project, task)
            result = None if prediction is None else changed(task, prediction)
            if prediction is None or result is None or label_studio.annotations(task.id):
                continue
            _replace_result(label_studio, prediction, result)
        except LabelStudioError as error:
            if error.status != 404:
                raise
            continue
        yield task.id


def _unannotated(label_studio: LabelStudio, project: Project) -> list[Task]:
    """Tasks without annotations that have a prediction of the version that annotators are shown, in the order of a
    hash.
    """
    shown = project.model_version
    tasks = [task for task in label_studio.all_tasks(project.id) if not task.annotations and shown in task.versions]
    tasks.sort(key=lambda task: hashlib.sha256(f"seed {task.id}".encode()).digest())
    return tasks


def _shown_prediction(label_studio: LabelStudio, project: Project, task: Task) -> StoredPrediction | None:
    rows = label_studio.predictions(task.id)
    return next((row for row in rows if row.version == project.model_version), None)


def _has_drafts(label_studio: LabelStudio, task: Task) -> bool:
    """Whether anybody has begun to annotate a task, of what Label Studio has saved."""
    return bool(label_studio.request("GET", f"/api/tasks/{task.id}/drafts"))


def _seeded_result(
    label_studio: LabelStudio, project: Project, vocabulary: Vocabulary, task: Task, prediction: StoredPrediction
) -> list[object] | None:
    """The result with a wrong region; None where there is one already, or none can be made."""
    if any(is_seeded(item_id(item)) for item in prediction.result):
        return None
    try:
        for found in label_studio.tasks(project.id, [task.id]):
            for image in images_of(found, vocabulary).images:
                if made := seed_region(prediction, image.vocabulary):
                    return [*prediction.result, *made]
    except (TaskDataError, ImageUnavailable, RegionError):  # a task that cannot be read has no prediction to trust
        return None
    return None


def _replace_result(label_studio: LabelStudio, prediction: StoredPrediction, result: Sequence[object]) -> None:
    body = {"task": prediction.task, "result": list(result)}  # with the task, or nobody knows by which config to check
    label_studio.request("PATCH", f"/api/predictions/{prediction.id}/", json=body)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
