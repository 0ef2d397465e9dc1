"""A Redis that does not answer becomes an error of ours. It must not know what is asked of Redis."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from redis.exceptions import RedisError

from plugin_config.errors import QueueUnavailable

P = ParamSpec("P")
R = TypeVar("R")


def redis_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method raise QueueUnavailable where redis-py raises an error of its own."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RedisError as error:
            raise QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.") from error

    return wrapped
