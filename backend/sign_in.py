"""Who may ask: basic auth as Label Studio sends it, or the secret that its webhooks carry, and a limit on guessing.

It must not know the web framework; no secret and no guess is ever logged.
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
_SECRET, _BASIC = _KINDS = "secret", "basic"
_TRIES = 10  # wrong guesses of one address, in one way of signing in, before it must wait
_SECONDS_A_TRY = 6.0  # after which it has one more
_MOST_PEERS = 10_000  # addresses remembered


class Verdict(enum.Enum):
    """What is to be done with a request."""

    IN = "may ask"
    NOBODY = "names nobody"
    WRONG = "names somebody else"
    TOO_OFTEN = "has guessed too often"


@dataclass(frozen=True)
class Shown:
    """What a request shows: the address it comes from, its path, and the two headers (empty when missing)."""

    peer: str
    path: str
    authorization: str
    secret: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Shown:
        """Read it from a WSGI environment. What proxies say of other addresses is not read."""
        return cls(
            environ.get("REMOTE_ADDR", ""),
            environ.get("PATH_INFO", ""),
            environ.get("HTTP_AUTHORIZATION", ""),
            environ.get("HTTP_X_ZEROMASK_SECRET", ""),
        )


class SignIn:
    """Judges requests. Safe to share between threads.

    Args:
        settings: `user`, `password` and `webhook_secret`; without them everybody may ask.
        clock: seconds that never go back.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._needed = settings.signs_in
        # As hashes: comparing those takes as long whatever the length of a guess.
        self._user = _hashes(settings.user)
        self._password = _hashes(settings.password)
        self._secret = _hashes(settings.webhook_secret)
        self._guesses = _Guesses(clock)
        self._lock = threading.Lock()

    def judge(self, shown: Shown) -> Verdict:
        """Judge a request without remembering it."""
        with self._lock:
            return self._judge(shown)[0]

    def admit(self, shown: Shown) -> Verdict:
        """Judge a request and remember how it went: once for each request."""
        with self._lock:
            verdict, kinds = self._judge(shown)
            if verdict is Verdict.WRONG:
                self._guesses.wrong(shown.peer, kinds)
            elif kinds:
                self._guesses.right(shown.peer, kinds)
            return verdict

    def wait_s(self, peer: str) -> int:
        """Whole seconds until the address may guess again."""
        with self._lock:
            return self._guesses.wait_s(peer)

    def _judge(self, shown: Shown) -> tuple[Verdict, frozenset[str]]:
        """The verdict, and in which ways the request has signed in, or tried to."""
        if not self._needed or shown.path in OPEN_ROUTES:
            return Verdict.IN, frozenset()
        proofs = self._proofs(shown)
        if not proofs:
            return Verdict.NOBODY, frozenset()  # asking without credentials is no guess: browsers always do so first
        # An address that guesses too often is not told whether a guess is right. But what it has used with success
        # before goes on working, and each way of signing in has guesses of its own: neither somebody else behind the
        # same address nor its own webhooks with a secret of before may lock Label Studio out.
        known = self._guesses.known(shown.peer)
        heard = {kind: holds for kind, holds in proofs.items()
                 if (holds and kind in known) or not self._guesses.too_many(shown.peer, kind)}  # fmt: skip
        if not heard:
            return Verdict.TOO_OFTEN, frozenset()
        right = frozenset(kind for kind, holds in heard.items() if holds)
        return (Verdict.IN, right) if right else (Verdict.WRONG, frozenset(heard))

    def _proofs(self, shown: Shown) -> dict[str, bool]:
        proofs = {}
        if shown.secret and shown.path in SECRET_ROUTES:
            proofs[_SECRET] = _same(shown.secret.encode("latin-1", "replace"), self._secret)
        if shown.authorization:
            user, password = _basic(shown.authorization)
            right = _same(user, self._user), _same(password, self._password)  # both, whatever the first one says
            proofs[_BASIC] = all(right)
        return proofs


@dataclass
class _Peer:
    # Way of signing in -> guesses not yet forgotten, and when that was so.
    wrong: dict[str, tuple[float, float]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()  # ways in which it has signed in


class _Guesses:
    """Wrong guesses of each address, forgotten one by one, and the ways in which it has signed in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def too_many(self, address: str, kind: str) -> bool:
        return self._left(address, kind) > _TRIES - 1

    def known(self, address: str) -> frozenset[str]:
        peer = self._peers.get(_network(address))
        return frozenset() if peer is None else peer.known

    def wrong(self, address: str, kinds: frozenset[str]) -> None:
        peer = self._peer(address)
        for kind in kinds:
            peer.wrong[kind] = self._left(address, kind) + 1, self._clock()

    def right(self, address: str, kinds: frozenset[str]) -> None:
        self._peer(address).known |= kinds

    def wait_s(self, address: str) -> int:
        most = max(self._left(address, kind) for kind in _KINDS)
        return max(1, math.ceil((most - (_TRIES - 1)) * _SECONDS_A_TRY))

    def _left(self, address: str, kind: str) -> float:
        peer = self._peers.get(_network(address))
        wrong, since = (0.0, 0.0) if peer is None else peer.wrong.get(kind, (0.0, 0.0))
        return max(0.0, wrong - (self._clock() - since) / _SECONDS_A_TRY)

    def _peer(self, address: str) -> _Peer:
        network = _network(address)
        peer = self._peers.setdefault(network, _Peer())
        self._peers.move_to_end(network)
        if len(self._peers) > _MOST_PEERS:
            # Those who never signed in go first: a crowd of strangers must not make Label Studio a stranger.
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
    """Of the text as UTF-8, as most clients send it, and as Latin-1, as Label Studio's does where it can."""
    coded = {secret.encode()}
    with contextlib.suppress(UnicodeEncodeError):
        coded.add(secret.encode("latin-1"))
    return tuple(hashlib.sha256(each).digest() for each in sorted(coded))


def _same(guess: bytes, hashes: tuple[bytes, ...]) -> bool:
    told = hashlib.sha256(guess).digest()
    same = [hmac.compare_digest(told, each) for each in hashes]  # every one, whatever the first one says
    return any(same)
