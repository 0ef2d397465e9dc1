"""What is remembered of each project beside its tasks: the versions we stored, serve and show.

A copy for speed, kept in Redis; the truth is in Label Studio. It must not know about single tasks.

Keys of project P:

    zeromask:P:versions   set     every version we stored predictions of
    zeromask:P:served     string  the version the project was last refreshed to
    zeromask:P:shown      string  the version annotators were last switched to
"""

from __future__ import annotations

from redis import Redis

from plugin_config.pending import redis_errors


class ProjectLedger:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def remember_version(self, project: int, version: str) -> None:
        """A prediction of ours carries this version."""
        self._redis.sadd(f"zeromask:{project}:versions", version)

    @redis_errors
    def known_versions(self, project: int) -> frozenset[str]:
        """Every version of ours: what may be replaced. All others were stored by somebody else."""
        return frozenset(_text(name) for name in self._redis.smembers(f"zeromask:{project}:versions"))

    @redis_errors
    def serve(self, project: int, version: str) -> None:
        """All tasks have been asked for at this version."""
        self._redis.set(f"zeromask:{project}:served", version)

    @redis_errors
    def served(self, project: int) -> str:
        """The version of the last `serve`, "" before the first."""
        return _text(self._redis.get(f"zeromask:{project}:served") or "")

    @redis_errors
    def show(self, project: int, version: str) -> None:
        """Annotators have been switched to this version, once: what they choose afterwards is theirs."""
        self._redis.set(f"zeromask:{project}:shown", version)

    @redis_errors
    def shown(self, project: int) -> str:
        """The version of the last `show`, "" before the first."""
        return _text(self._redis.get(f"zeromask:{project}:shown") or "")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
