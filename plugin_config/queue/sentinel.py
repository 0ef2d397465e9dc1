"""A Redis that Sentinel watches: at every connection the sentinels are asked which of its servers is the master.

The address is `redis+sentinel://[user:password@]host[:26379][,host...]/MASTER[/database][?argument=value]`, with
`rediss+sentinel://` for TLS to sentinels and servers. User and password are those of the servers; the sentinels' own,
if they have any, are the arguments `sentinel_username` and `sentinel_password`. Other arguments are redis-py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisGone
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from plugin_config.certificates import tls_trouble

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Scheme of such an address -> that of one of its servers."""

_PORT = 26379
_SIGN_IN = ("sentinel_username", "sentinel_password")


class MasterUnknown(RedisGone):
    """No sentinel names a master that answers.

    Attributes:
        problem: the state that was found.
        remedy: what to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"Redis {problem}")
        self.problem, self.remedy = problem, remedy


class Sentinels:
    """The sentinels of one address, as a pool of redis-py asks them. Safe to share between threads.

    Args:
        addresses: host and port of each.
        options: of a connection to one of them, as `Redis` takes them.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> None:
        self._addresses = tuple(addresses)
        self._options = options

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master of a name. The sentinels are asked one after the other, first the one that
        answered last.

        Raises:
            MasterUnknown: none answers, none knows the name, or its master is down.
        """
        refusals: dict[tuple[str, int], RedisError] = {}
        known: dict[str, Any] = {}
        for address in self._addresses:
            try:
                masters = self._masters(address)
            except RedisError as error:
                refusals[address] = error
                continue
            known |= masters
            state = masters.get(service_name)
            if state and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
                self._addresses = (address, *(other for other in self._addresses if other != address))
                return str(state["ip"]), int(state["port"])
        raise _unknown(service_name, known, refusals)

    def _masters(self, address: tuple[str, int]) -> dict[str, Any]:
        """What a sentinel says of each master. The connection is closed at once: the next is asked for hours later."""
        host, port = address
        with Redis(host, port, retry=Retry(NoBackoff(), 0), **self._options) as sentinel:
            masters: dict[str, Any] = sentinel.sentinel_masters()
            return masters


def _unknown(name: str, known: Mapping[str, Any], refusals: Mapping[tuple[str, int], RedisError]) -> MasterUnknown:
    told = "; ".join(f"{host}:{port}: {error}" for (host, port), error in refusals.items())
    if name in known:
        return MasterUnknown(
            f"has no master just now: the sentinels say that {name} is down",
            "They make one of its replicas the master within seconds; see to it that there is a replica.",
        )
    if known:
        problem = f"is not known to its sentinels as {name}; they watch {', '.join(sorted(known))}"
        return MasterUnknown(problem, "Correct the master's name in REDIS_URL.")
    if not refusals:
        remedy = "Give the sentinels one by `sentinel monitor`, or correct REDIS_URL."
        return MasterUnknown(f"is not known to its sentinels as {name}; they watch no master", remedy)
    first = next(iter(refusals.values()))
    if trouble := tls_trouble(first):
        return MasterUnknown(f"has sentinels of which the first {trouble[0]}", trouble[1])
    if all(isinstance(error, AuthenticationError) for error in refusals.values()):
        remedy = "Give REDIS_URL the arguments sentinel_username and sentinel_password that they want."
        return MasterUnknown(f"has sentinels that refuse the sign-in ({told})", remedy)
    return MasterUnknown(f"has no sentinel that answers ({told})", "Start one, or correct REDIS_URL.")


def sentinel_pool(url: str, options: Mapping[str, Any]) -> SentinelConnectionPool:
    """Make the pool of connections to the master that an address names; it connects to nothing.

    Args:
        url: with one of `SCHEMES`.
        options: of connections to the master, as redis-py has them. The sentinels get the same waits and authorities.

    Raises:
        ValueError: the address names no sentinel or no master, or has parts that redis-py does not take.
    """
    parts = urlsplit(url)
    sign_in, _, hosts = parts.netloc.rpartition("@")
    name, _, database = unquote(parts.path).strip("/").partition("/")
    if not name:
        raise ValueError("names no master")
    arguments = {key: values[0] for key, values in parse_qs(parts.query).items()}
    signed = {key.removeprefix("sentinel_"): arguments.pop(key) for key in _SIGN_IN if key in arguments}
    server = f"{SCHEMES[parts.scheme]}://{sign_in}@sentinel/{database}?{urlencode(arguments)}"
    found = {**parse_url(server), **options}  # type: ignore[no-untyped-call]
    encrypted = found.pop("connection_class", None) is not None
    del found["host"]
    watching = {key: value for key, value in found.items() if key.startswith(("socket_", "ssl_"))}
    watching["socket_timeout"] = found.get("socket_connect_timeout")  # they answer at once, or not at all
    kind = SentinelManagedSSLConnection if encrypted else SentinelManagedConnection
    watching |= {**signed, "ssl": encrypted}
    Redis("sentinel", **watching).close()  # refuses arguments it does not know, before anything is asked
    sentinels = Sentinels([_address(host) for host in hosts.split(",")], watching)
    return SentinelConnectionPool(name, sentinels, connection_class=kind, **found)  # type: ignore[no-untyped-call]


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"redis://{host}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("names a sentinel without host, or with port 0")
    return parts.hostname, parts.port or _PORT
