"""Batches in which every second task is malformed, through the whole product beside a real Label Studio."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import strategies as st

from plugin_config.errors import LabelStudioError
from tests.attack.ground import OWN, Ground, ground
from tests.attack.watch import memory_mb
from tests.faults.stand import Serving, wait_for
from tests.fuzz import pictures
from tests.fuzz.trial import generate
from tests.fuzz.verdicts import Failure, Kind, Tally, pick
from tests.house import current_version, picture

NAME = "whole product"
_WITHIN_S = 90.0
_MOST_GROWTH_MB = 600.0  # of the worker, which makes room for its model's work with the first batch

# None of these leads to a picture, and none would by waiting.
_ADDRESSES = pick([
    "ftp://example.org/a.png", "file:///etc/passwd", "/api/users/", "/data/../api/users/", "http://[::1", "http://",
    "x",
    "javascript:alert(1)", "data:image/png;base64,@@@@", "data:,", "not an address", f"{OWN}none.png", "//",
    "http://user@h/a",
    "/data/upload/999999/a.png", "http://127.0.0.1:1/a.png", "s3://", "\U0001f431",
    "/tasks/999999/presign/?fileuri=eA==",
    "http://169.254.169.254/latest", "blob:http://h/x", "C:\\\\a.png", "?", "http://\u00e9\u0000/",
])  # fmt: skip
CASES = st.one_of(pictures.CASES, pictures.CASES, _ADDRESSES)


def run_whole(server: Serving, *, number: int, count: int) -> Tally:
    """Predict `count` malformed tasks, a healthy one before each.

    Harmed: a healthy one is not predicted. Silent: a malformed one is neither predicted nor failed with a reason that
    names it. Hung: one that still waits after a minute and a half.
    """
    started = time.monotonic()
    malformed = _malformed(number, count)
    tally = Tally(NAME)
    with ground(server) as it:
        before = memory_mb(it.pids()["worker"])
        files = [case for case in malformed if isinstance(case, bytes)]
        texts = [case for case in malformed if isinstance(case, str)]
        mixed = [content for case in files for content in (picture(top=30), case)]
        for project, cases in ((it.pictures(mixed, name="malformed"), files), (_addressed(it, texts), texts)):
            _judge(it, project, cases, tally)
        tally.growth_mb = max(0.0, memory_mb(it.pids()["worker"]) - before)
    if tally.growth_mb > _MOST_GROWTH_MB:
        tally.failures.append(Failure(NAME, "grown", 1, f"the worker holds {tally.growth_mb:.0f} MB more", ""))
    tally.slowest_s = tally.seconds = time.monotonic() - started
    return tally


def _malformed(number: int, count: int) -> list[bytes | str]:
    """Files that are no pictures by the judge of pictures, and addresses that lead to none."""
    found: list[bytes | str] = []
    judge = pictures.PictureJudge()

    def note(case: Any) -> None:
        if isinstance(case, str):
            found.append(case)
        elif judge(case).fate == "told" and (content := pictures.content_of(case)):
            found.append(content)

    kind = Kind(NAME, CASES, "", repr, 0, 0, 0, 0)
    generate(kind, note, number=number, count=6 * count)
    return list(dict.fromkeys(found))[:count]


def _addressed(it: Ground, texts: list[str]) -> int:
    """A project of these addresses, a healthy one before each: one of its own uploads."""
    project = it.pictures([picture(top=24)], name="addresses")
    (task,) = it.house.label_studio.tasks(project, it.task_ids(project))
    named = [text.replace(OWN, f"/data/upload/{project}/") for text in texts]
    rows = [{"image": url} for text in named for url in (task.data["image"], text)]
    for row in rows:  # one by one: Label Studio refuses all of a list for one that it does not take
        try:
            it.house.label_studio.request("POST", f"/api/projects/{project}/import", json=[row])
        except LabelStudioError:
            continue
    it.house.label_studio.request("DELETE", f"/api/tasks/{task.id}/")
    return project


def _judge(it: Ground, project: int, cases: list[Any], tally: Tally) -> None:
    ids, version = it.task_ids(project), current_version(it.house, project)
    it.ask(project, ids)
    it.wait_ended(project, within_s=_WITHIN_S)
    wait_for(lambda: sum(bool(task.versions) for task in it.house.label_studio.all_tasks(project)) > 0, within_s=1)
    tasks = {task.id: task for task in it.house.label_studio.tasks(project, ids)}
    reasons = {ref.task: reason for ref, reason in it.house.pending.failures(project).items()}
    odd = set(map(str, cases))
    for place, number in enumerate(ids):
        url = str(tasks[number].data.get("image"))
        malformed = bool(place % 2) if not isinstance(cases[:1] and cases[0], str) else url in odd or "none.png" in url
        predicted = any(row.version == version for row in it.house.label_studio.predictions(number))
        example = f"task {number}: {url[:200]}"
        _note(tally, malformed=malformed, predicted=predicted, reason=reasons.get(number), example=example)


def _note(tally: Tally, *, malformed: bool, predicted: bool, reason: str | None, example: str) -> None:
    fate, evidence = "taken", ""
    if not malformed:
        fate, evidence = ("taken", "") if predicted else ("harmed", f"a healthy task is not predicted: {reason}")
    elif predicted:
        fate, evidence = "silent", "a malformed task is predicted"
    elif reason is None:
        fate, evidence = "hung", "a malformed task is neither predicted nor failed"
    else:
        fate = "told" if "task" in reason or "image" in reason else "unclear"
        evidence = "" if fate == "told" else reason
    tally.fates[fate] += 1
    if evidence:
        tally.failures.append(Failure(NAME, f"{fate}: {evidence[:60]}", 1, evidence, example))
