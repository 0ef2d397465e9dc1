"""What Label Studio says happened when it calls `/webhook`, and what each action means for this backend.

The names are those of Label Studio 1.23: `WebhookAction.ACTIONS` of its source, and the one action that its "Start
training" button sends to a connected model.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Effect(Enum):
    """What the backend does about an action; the value is the reason."""

    REFRESH = "labels, settings or the set of tasks changed: read the project again soon"
    PRELABEL = "there are new tasks: predict them, where ZEROMASK_PRELABEL is on"
    LEARN = "annotations changed: learn from them once there is a pause"
    TRAIN = "a person pressed the button: learn now, from however few corrections"
    NOTHING = "no prediction and no correction depends on it"


ACTIONS: Mapping[str, Effect] = MappingProxyType({
    "PROJECT_CREATED": Effect.NOTHING,  # sent by webhooks of a whole organization only, as is the next
    "PROJECT_DELETED": Effect.NOTHING,
    "PROJECT_UPDATED": Effect.REFRESH,
    "TASKS_CREATED": Effect.PRELABEL,
    "TASKS_DELETED": Effect.REFRESH,
    "ANNOTATION_CREATED": Effect.LEARN,
    "ANNOTATIONS_CREATED": Effect.LEARN,
    "ANNOTATION_UPDATED": Effect.LEARN,
    "ANNOTATIONS_DELETED": Effect.LEARN,
    "LABEL_LINK_CREATED": Effect.NOTHING,  # labels managed outside the labeling config, which predictions follow
    "LABEL_LINK_UPDATED": Effect.NOTHING,
    "LABEL_LINK_DELETED": Effect.NOTHING,
    "START_TRAINING": Effect.TRAIN,
})  # fmt: skip
"""Every action that Label Studio sends, and its effect."""


def effect_of(action: str) -> Effect:
    """The effect of an action; NOTHING for a name that Label Studio 1.23 does not send."""
    return ACTIONS.get(action, Effect.NOTHING)
