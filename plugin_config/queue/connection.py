"""A Redis that does not answer, or holds what is not ours, becomes an error of ours. It must not know what is asked.

Where a key is of the wrong kind it is moved aside and the same is asked once more, so that one odd key stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from plugin_config.errors import QueueDamaged, QueueUnavailable
from plugin_config.queue.mending import mend

P = ParamSpec("P")
R = TypeVar("R")

# How a Redis that takes nothing now begins its refusal; redis-py has errors of their own for most others.
_AWAY = ("MISCONF", "BUSY", "NOAUTH", "NOREPLICAS", "UNKILLABLE", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "OOM",
         "READONLY", "TRYAGAIN", "NOPERM", "NOSCRIPT", "max number of clients")  # fmt: skip


def redis_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method raise QueueUnavailable where redis-py raises an error of its own.

    Of an object that holds its connection as `_redis`, and takes a project first or nothing of the kind, it mends what
    is of the wrong kind there, and asks again; QueueDamaged where that does not help. So it must do no harm twice.
    """

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RedisError as error:
            if not is_damage(error):
                raise _away(error) from error
            damage = error
        try:
            if _mended(args):
                return method(*args, **kwargs)
        except RedisError as error:
            if not is_damage(error):
                raise _away(error) from error
            damage = error
        raise _damaged(args, damage) from damage

    return wrapped


def is_damage(error: RedisError) -> bool:
    """Whether Redis answered, and what it holds is the trouble."""
    return type(error) is ResponseError and not str(error).startswith(_AWAY)


def _mended(args: tuple[Any, ...]) -> bool:
    redis = getattr(args[0], "_redis", None) if args else None
    return isinstance(redis, Redis) and bool(mend(redis, _project(args)))


def _project(args: tuple[Any, ...]) -> int | None:
    return args[1] if len(args) > 1 and type(args[1]) is int else None


def _away(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.")


def _damaged(args: tuple[Any, ...], error: RedisError) -> QueueDamaged:
    project = _project(args)
    subject = "Redis" if project is None else f"Redis, project {project}"
    remedy = "Look who else writes to this Redis, and delete what is not zeromask's."
    return QueueDamaged(subject, f"holds something that this project does not write ({str(error)[:200]})", remedy)
