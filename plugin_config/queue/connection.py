"""Connections to Redis, and what its errors mean: it does not answer, or it holds what this project did not write.

Where a key has a wrong type it is moved away and the call is repeated once, so that one bad key stops nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisGone
from redis.retry import Retry

from plugin_config.certificates import tls_trouble
from plugin_config.errors import QueueDamaged, QueueUnavailable, SettingsError
from plugin_config.queue.quarantine import quarantine_keys
from plugin_config.queue.sentinel import SCHEMES, MasterUnknown, sentinel_pool

P = ParamSpec("P")
R = TypeVar("R")

# How the refusal of a Redis that accepts nothing now begins; redis-py has own errors for most others.
_REFUSALS = ("MISCONF", "BUSY", "NOAUTH", "NOREPLICAS", "UNKILLABLE", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "OOM",
             "READONLY", "TRYAGAIN", "NOPERM", "NOSCRIPT", "max number of clients")  # fmt: skip
# They change the type of every answer, and this project reads bytes.
_NOT_OURS = {"decode_responses", "encoding", "encoding_errors", "parser_class"}


def open_redis(
    url: str, *, connect_s: float, answer_s: float | None, one_retry: bool = False, health_check_s: int = 0,
    ca_bundle: str = "",
) -> Redis:  # fmt: skip
    """Make a client of the Redis at an address; it connects at its first command. Where the address names sentinels,
    every connection goes to the server that they call the master at that moment.

    Args:
        url: as the setting REDIS_URL has it.
        connect_s: longest wait for a connection, seconds.
        answer_s: longest wait for an answer, seconds; None = without end.
        one_retry: retry a broken connection once and at once, because a pooled one may be older than the last restart
            of Redis; otherwise as redis-py does, several times within seconds.
        health_check_s: seconds after which an idle connection is checked before it is used; 0 = never.
        ca_bundle: PEM file of further authorities for `rediss://` and `rediss+sentinel://`, where the address names
            none; "" = none.

    Raises:
        SettingsError: the address is none of a Redis: another scheme, a port or database that is no number, an argument
            that redis-py does not know. The message never quotes it, because it may hold a password.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_s, "socket_timeout": answer_s, "health_check_interval": health_check_s,
    }  # fmt: skip
    if one_retry:
        options["retry"] = Retry(NoBackoff(), 1, supported_errors=(RedisGone,))
    if ca_bundle and url.startswith("rediss") and "ssl_ca_" not in url:
        options["ssl_ca_certs"] = str(Path(ca_bundle).expanduser())  # beside the system's
    try:
        _check_address(url)
        watched = urlsplit(url).scheme in SCHEMES
        client = Redis.from_pool(sentinel_pool(url, options)) if watched else Redis.from_url(url, **options)
        pool = client.connection_pool
        if pool.connection_kwargs.get("db", 0) < 0:
            raise ValueError("the database must be a number, not below 0")
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, and refuses arguments it does not know
    except (ValueError, TypeError, RedisError) as error:
        remedy = (
            "Write redis://[:password@]host:port/0, rediss://..., redis+sentinel://[:password@]host:26379,host:26379/"
            "MASTER/0 or unix:///path?db=0, and percent-encode characters such as / and ? in the password."
        )
        raise SettingsError("setting REDIS_URL", "is not the address of a Redis", remedy) from error
    return client


def _check_address(url: str) -> None:
    """Refuse what redis-py silently replaces by a default, or fails on at the first command only."""
    parts = urlsplit(url)
    path = unquote(parts.path).strip("/")
    if parts.scheme == "unix":
        if not path or parts.hostname:  # what stands where a host would is ignored
            raise ValueError("names no socket by its whole path")
    else:
        watched = parts.scheme in SCHEMES
        database = path.partition("/")[2] if watched else path
        if database and not (database.isascii() and database.isdecimal()):
            raise ValueError("the database must be a number")
        if not watched and parts.port == 0:
            raise ValueError("the port must be a number above 0")
    if _NOT_OURS & {item.partition("=")[0] for item in parts.query.split("&")}:
        raise ValueError("an argument changes how answers are read")


def redis_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method raise QueueUnavailable where redis-py raises an error of its own.

    A method of an object that holds its connection as `_redis`, or a function whose first argument is a connection, is
    called again after keys of a wrong type were moved away, those of its project where its next argument is a project
    id; QueueDamaged where that does not help. Calling it twice must therefore do no harm.
    """

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except RedisError as error:
            if not is_damage(error):
                raise unavailable(error) from error
            damage = error
        try:
            if _quarantined(args):
                return method(*args, **kwargs)
        except RedisError as error:
            if not is_damage(error):
                raise unavailable(error) from error
            damage = error
        raise _damaged(args, damage) from damage

    return wrapped


def is_damage(error: RedisError) -> bool:
    """Whether Redis answered, and the trouble is what it holds."""
    return type(error) is ResponseError and not str(error).startswith(_REFUSALS)


def unavailable(error: RedisError) -> QueueUnavailable:
    """The error where Redis does not answer, or refuses."""
    if isinstance(error, MasterUnknown):
        return QueueUnavailable("Redis", error.problem, error.remedy)
    if trouble := tls_trouble(error):
        return QueueUnavailable("Redis", *trouble)
    if isinstance(error, AuthenticationError):
        return QueueUnavailable("Redis", f"refuses the sign-in ({error})", "Correct user and password in REDIS_URL.")
    return QueueUnavailable("Redis", f"does not answer ({error})", "Start it, or correct REDIS_URL.")


def _quarantined(args: tuple[Any, ...]) -> bool:
    first = args[0] if args else None
    redis = first if isinstance(first, Redis) else getattr(first, "_redis", None)
    return isinstance(redis, Redis) and bool(quarantine_keys(redis, _project(args)))


def _project(args: tuple[Any, ...]) -> int | None:
    return args[1] if len(args) > 1 and type(args[1]) is int else None


def _damaged(args: tuple[Any, ...], error: RedisError) -> QueueDamaged:
    project = _project(args)
    subject = "Redis" if project is None else f"Redis, project {project}"
    remedy = "Look who else writes to this Redis, and delete what is not zeromask's."
    return QueueDamaged(subject, f"holds something that this project does not write ({str(error)[:200]})", remedy)
