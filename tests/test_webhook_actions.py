"""The actions of Label Studio's webhooks: every one it sends is listed, with an effect."""

from __future__ import annotations

import ast

import pytest

from plugin_config.label_studio.webhook_actions import ACTIONS, Effect, effect_of
from plugin_config.local.environments import label_studio_environment


def actions_of_label_studio() -> set[str]:
    """The keys of `WebhookAction.ACTIONS`, read from the source of the installed Label Studio."""
    (source,) = label_studio_environment().path.glob("lib/python*/site-packages/label_studio/webhooks/models.py")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["ACTIONS"]:
            assert isinstance(node.value, ast.Dict)
            return {key.id for key in node.value.keys if isinstance(key, ast.Name)}
    raise AssertionError(f"{source} has no ACTIONS")


def test_every_action_of_label_studio_is_listed() -> None:
    assert set(ACTIONS) == actions_of_label_studio() | {"START_TRAINING"}


@pytest.mark.parametrize(
    ("action", "effect"),
    [
        ("PROJECT_UPDATED", Effect.REFRESH),
        ("TASKS_DELETED", Effect.REFRESH),
        ("TASKS_CREATED", Effect.PRELABEL),
        ("ANNOTATION_CREATED", Effect.LEARN),
        ("ANNOTATIONS_CREATED", Effect.LEARN),
        ("ANNOTATION_UPDATED", Effect.LEARN),
        ("ANNOTATIONS_DELETED", Effect.LEARN),
        ("START_TRAINING", Effect.TRAIN),
        ("LABEL_LINK_CREATED", Effect.NOTHING),
        ("a name of a later release", Effect.NOTHING),
    ],
)
def test_what_an_action_means(action: str, effect: Effect) -> None:
    assert effect_of(action) is effect
