"""Sign-in: basic auth as Label Studio sends it, or the secret that its webhooks carry, and a limit on guessing.

No secret and no guess is ever logged.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import enum
import hashlib
import hmac
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plugin_config.settings import Settings

OPEN_ROUTES = frozenset({"/health"})
SECRET_ROUTES = frozenset({"/webhook"})
_SECRET, _BASIC = _METHODS = "secret", "basic"
_MAX_GUESSES = 10  # wrong ones of one address, with one method of signing in, before it must wait
_SECONDS_PER_GUESS = 6.0  # after which it has one more
_MAX_PEERS = 10_000  # addresses remembered


class SignInResult(enum.Enum):
    """The outcome of a sign-in."""

    ACCEPTED = "accepted"
    MISSING = "no credentials"
    WRONG = "wrong credentials"
    TOO_MANY_GUESSES = "too many wrong guesses from this address"


@dataclass(frozen=True)
class Credentials:
    """What a sign-in is judged by: the request's address and path, and its two headers (empty when missing)."""

    peer: str
    path: str
    authorization: str
    secret: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Credentials:
        """Read them from a WSGI environment. Headers in which proxies name other addresses are not read."""
        return cls(
            environ.get("REMOTE_ADDR", ""),
            environ.get("PATH_INFO", ""),
            environ.get("HTTP_AUTHORIZATION", ""),
            environ.get("HTTP_X_ZEROMASK_SECRET", ""),
        )


class SignIn:
    """Judges credentials. Safe to share between threads.

    Args:
        settings: `user`, `password` and `webhook_secret`; without them every request is accepted.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._needed = settings.signs_in
        # As hashes: comparing those takes as long whatever the length of a guess.
        self._user = _hashes(settings.user)
        self._password = _hashes(settings.password)
        self._secret = _hashes(settings.webhook_secret)
        self._guesses = _Guesses(clock)
        self._lock = threading.Lock()

    def judge(self, credentials: Credentials) -> SignInResult:
        """Judge credentials without counting them as a guess."""
        with self._lock:
            return self._judge(credentials)[0]

    def admit(self, credentials: Credentials) -> SignInResult:
        """Judge credentials and count a wrong guess: once for each request."""
        with self._lock:
            result, methods = self._judge(credentials)
            if result is SignInResult.WRONG:
                self._guesses.count_wrong(credentials.peer, methods)
            elif methods:
                self._guesses.remember_right(credentials.peer, methods)
            return result

    def wait_s(self, peer: str) -> int:
        """Whole seconds until the address may guess again."""
        with self._lock:
            return self._guesses.wait_s(peer)

    def _judge(self, credentials: Credentials) -> tuple[SignInResult, frozenset[str]]:
        """The result, and the methods by which the request has signed in, or tried to."""
        if not self._needed or credentials.path in OPEN_ROUTES:
            return SignInResult.ACCEPTED, frozenset()
        results = self._results(credentials)
        if not results:
            return SignInResult.MISSING, frozenset()  # no credentials are no guess: browsers always send none at first
        # An address with too many wrong guesses does not learn whether a guess is right. But a method by which it has
        # signed in before goes on working, and each method has guesses of its own: neither somebody else behind the
        # same address nor its own webhooks with an outdated secret may lock Label Studio out.
        known = self._guesses.known(credentials.peer)
        counted = {method: right for method, right in results.items()
                   if (right and method in known) or not self._guesses.too_many(credentials.peer, method)}  # fmt: skip
        if not counted:
            return SignInResult.TOO_MANY_GUESSES, frozenset()
        accepted = frozenset(method for method, right in counted.items() if right)
        return (SignInResult.ACCEPTED, accepted) if accepted else (SignInResult.WRONG, frozenset(counted))

    def _results(self, credentials: Credentials) -> dict[str, bool]:
        """Method of signing in -> whether its credentials are right; without those that are missing."""
        results = {}
        if credentials.secret and credentials.path in SECRET_ROUTES:
            results[_SECRET] = _matches(credentials.secret.encode("latin-1", "replace"), self._secret)
        if credentials.authorization:
            user, password = _basic(credentials.authorization)
            right = _matches(user, self._user), _matches(password, self._password)  # both, always: equal time
            results[_BASIC] = all(right)
        return results


@dataclass
class _Peer:
    # Method -> wrong guesses not yet forgotten, and the moment they were counted.
    wrong: dict[str, tuple[float, float]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()  # methods by which it has signed in


class _Guesses:
    """Wrong guesses of each address, forgotten one by one, and the methods by which it has signed in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def too_many(self, address: str, method: str) -> bool:
        return self._count(address, method) > _MAX_GUESSES - 1

    def known(self, address: str) -> frozenset[str]:
        peer = self._peers.get(_network(address))
        return frozenset() if peer is None else peer.known

    def count_wrong(self, address: str, methods: frozenset[str]) -> None:
        peer = self._peer(address)
        for method in methods:
            peer.wrong[method] = self._count(address, method) + 1, self._clock()

    def remember_right(self, address: str, methods: frozenset[str]) -> None:
        self._peer(address).known |= methods

    def wait_s(self, address: str) -> int:
        most = max(self._count(address, method) for method in _METHODS)
        return max(1, math.ceil((most - (_MAX_GUESSES - 1)) * _SECONDS_PER_GUESS))

    def _count(self, address: str, method: str) -> float:
        peer = self._peers.get(_network(address))
        wrong, since = (0.0, 0.0) if peer is None else peer.wrong.get(method, (0.0, 0.0))
        return max(0.0, wrong - (self._clock() - since) / _SECONDS_PER_GUESS)

    def _peer(self, address: str) -> _Peer:
        network = _network(address)
        peer = self._peers.setdefault(network, _Peer())
        self._peers.move_to_end(network)
        if len(self._peers) > _MAX_PEERS:
            # Those that never signed in go first: many unknown addresses must not push out that of Label Studio.
            oldest = next((name for name, old in self._peers.items() if not old.known), next(iter(self._peers)))
            del self._peers[oldest]
        return peer


def _network(address: str) -> str:
    """An IPv6 host may choose among 2^64 addresses of its network: they count as one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _basic(authorization: str) -> tuple[bytes, bytes]:
    scheme, _, coded = authorization.partition(" ")
    try:
        pair = base64.b64decode(coded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        pair = b""
    user, _, password = pair.partition(b":")
    return user, password


def _hashes(secret: str) -> tuple[bytes, ...]:
    """SHA-256 of the text as UTF-8, as most clients send it, and as Latin-1, as Label Studio's does where it can."""
    coded = {secret.encode()}
    with contextlib.suppress(UnicodeEncodeError):
        coded.add(secret.encode("latin-1"))
    return tuple(hashlib.sha256(each).digest() for each in sorted(coded))


def _matches(guess: bytes, hashes: tuple[bytes, ...]) -> bool:
    digest = hashlib.sha256(guess).digest()
    same = [hmac.compare_digest(digest, each) for each in hashes]  # every one, always: equal time
    return any(same)
