"""Checks of one task of a project, tried by a process of the worker: its image, the words of the labels, a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from plugin_config.doctor.findings import Finding, ok, warning, wrong
from plugin_config.doctor.installation import ExaminedProject
from plugin_config.errors import ZeromaskError

STARTING_S = 30.0
"""Longest start of the process, seconds, beside the wait for the image: a busy machine takes long to import."""
IMAGE_S = 330.0
"""Longest wait for the image, seconds, however long ZEROMASK_IMAGE_TIMEOUT_S is."""
MODEL_S = 300.0
"""Longest wait for the model, seconds."""
MASK_S = 120.0
"""Longest wait for the words and the mask, seconds."""

SPARE_S = 5.0
"""How much longer a check may take than what it waits for, seconds: it tells what did not end in time."""

_NO_TASK = "has no task"


def check_image(examined: ExaminedProject) -> Iterator[Finding]:
    """The image of the first task can be fetched as a worker does it."""
    wait_s = STARTING_S + examined.installation.settings.image_timeout_s
    row = examined.installation.sample.step("image", examined.id, within_s=wait_s)
    if error := _error_of(row):
        if _NO_TASK in error.problem:
            yield warning("the project has no task to try", "Import one, and run this again.")
        else:
            yield wrong(f"{error.subject}: {error.problem}", error.remedy)
        return
    yield ok(f"task {row['task']}: {row['width']} x {row['height']} pixels, fetched in {row['seconds']:.1f} s")


def check_words(examined: ExaminedProject) -> Iterator[Finding]:
    """The model can read the words of the labels."""
    sample = examined.installation.sample
    model = sample.step("model", None, within_s=MODEL_S)
    if error := _error_of(model):
        yield wrong(f"{error.subject}: {error.problem}", error.remedy)
        return
    row = sample.step("words", examined.id, within_s=MASK_S)
    unread = tuple((str(label), tuple(map(str, words))) for label, words in row["unknown"].items())
    told = f"model {model['name']} on {model['device']}"
    found = ok(f"{told} knows the words of every label")
    if row["remarks"]:
        found = warning(
            f"{told}: {'; '.join(row['remarks'])}",
            "Say it in other words (prompt, synonyms or hint on the "
            "label), choose another MODEL, or correct some images: what is learned needs no words.",
        )
    yield replace(found, unread=unread)


def check_mask(examined: ExaminedProject) -> Iterator[Finding]:
    """A mask is drawn."""
    row = examined.installation.sample.step("mask", examined.id, within_s=MASK_S)
    if error := _error_of(row):
        yield wrong(f"{error.subject}: {error.problem}", error.remedy)
        return
    regions = sum(row["regions"].values())
    found = ", ".join(f"{count} {label!r}" for label, count in row["regions"].items())
    told = f"task {row['task']}, version {row['served']}, {row['seconds']:.1f} s: {row['picture']}"
    if not regions and not row["answers"]:
        result = warning(
            f"nothing was found in {told}", "Look at the picture: the labels may be none of what is there."
        )
    else:
        result = ok(
            f"{regions} region{'' if regions == 1 else 's'} ({found}) in {told}" if regions else f"answers in {told}"
        )
    yield replace(result, picture=str(row["picture"]))


def _error_of(row: Mapping[str, Any]) -> ZeromaskError | None:
    error = row.get("error")
    return ZeromaskError(str(error["subject"]), str(error["problem"]), str(error["remedy"])) if error else None
