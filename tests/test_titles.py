"""Titles of projects: noted by whoever reads a project, read for many at once; on a real Redis."""

from __future__ import annotations

from redis import Redis

from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.titles import set_title, titles
from tests.stand_ins import PROJECT, StandInContext, context_fixture

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


def test_a_worker_notes_the_title_of_a_project_and_each_later_one(context: StandInContext) -> None:
    context.label_studio.title = "Büro, Straße 1"
    context.reconcile()
    assert titles(context.redis, [PROJECT, 77]) == {PROJECT: "Büro, Straße 1"}
    context.label_studio.title = "Street scenes"
    context.reconcile()
    assert titles(context.redis, [PROJECT]) == {PROJECT: "Street scenes"}


def test_the_title_of_a_project_that_is_gone_is_forgotten(context: StandInContext) -> None:
    context.reconcile()
    context.label_studio.gone = True
    context.reconcile()
    assert titles(context.redis, [PROJECT]) == {}


def test_a_title_is_one_short_line_whoever_wrote_it(redis: Redis) -> None:
    set_title(redis, 1, " a\x1b[31m\nb ")
    redis.set(ProjectKeys(2).title, b"\xff\x07" + b"x" * 500)
    redis.lpush(ProjectKeys(3).title, "no title")
    found = titles(redis, [1, 2, 3])
    assert found[1] == "a\ufffd[31m\ufffdb"
    assert found[2] == ("\ufffd" * 2 + "x" * 500)[:200]
    assert set(found) == {1, 2}
    set_title(redis, 1, "")
    assert titles(redis, [1]) == {}
    assert titles(redis, []) == {}
