"""What Label Studio calls each project, for people: `zeromask status` and the status page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from redis import Redis

from plugin_config.printable import one_line
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode

_MOST_CHARACTERS = 200  # Label Studio takes 50


@redis_errors
def set_title(redis: Redis, project: int, title: str) -> None:
    """Note the title of a project as Label Studio has it; an empty one is forgotten.

    Args:
        redis: a connection.
        project: its id.
        title: of any length; control characters are replaced.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    text = one_line(title).strip()[:_MOST_CHARACTERS]
    if text:
        redis.set(ProjectKeys(project).title, text)
    else:
        redis.delete(ProjectKeys(project).title)


@redis_errors
def titles(redis: Redis, projects: Iterable[int]) -> Mapping[int, str]:
    """The titles of projects, in one request to Redis.

    Args:
        redis: a connection.
        projects: their ids.

    Returns:
        id -> title, without the projects that no worker has read yet.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    wanted = list(dict.fromkeys(projects))
    rows: Any = redis.mget([ProjectKeys(project).title for project in wanted]) if wanted else []
    return {
        project: one_line(decode(row))[:_MOST_CHARACTERS] for project, row in zip(wanted, rows, strict=True) if row
    }
