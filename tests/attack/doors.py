"""Attacks on the backend's routes."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from urllib.parse import urlsplit

from plugin_config.local.supervisor import free_port, module_command
from plugin_config.queue.hints import ProjectHints
from tests.attack import payloads
from tests.attack.between import between
from tests.attack.ground import Finding, Ground, Reply, Row, at_once, basic, ground
from tests.faults.stand import Serving, wait_for
from tests.house import CONFIG
from tests.http_server import Answer, as_json

_REFUSED_S = 5.0
_POSTS = ("/setup", "/predict", "/webhook", "/train", "/versions")
_GETS = ("/", "/metrics", "/versions", "/is_training")
_USER, _PASSWORD, _SECRET = "label-studio", "attacked-every-day", "a-secret-of-the-webhooks"


def config_bomb(server: Serving, scale: float) -> Row:
    """Labeling configs that cost minutes to read, sent to the backend and stored in Label Studio."""
    bombs = {
        "300,000 attributes": payloads.config_with_attributes(300_000),
        "100,000 labels": payloads.labeling_config(100_000),
        "entities": payloads.config_of_entities(),
        "100,000 views": payloads.deep_config(100_000),
    }
    if scale < 1:
        del bombs["100,000 labels"]
    with between(server.url) as proxy, ground(server, through=proxy.url) as it:
        project, least = it.project(6, name="bomb"), bombs["300,000 attributes"]
        row = {"id": project, "title": "bomb", "label_config": least, "task_number": 6}

        def instead(path: str) -> Answer | None:
            return as_json(row) if path.startswith(f"/api/projects/{project}/") else None

        def act() -> Finding:
            replies = [it.send("/setup", {"project": "9.1", "schema": bomb}, within_s=20) for bomb in bombs.values()]
            told = [f"{name} {_told(reply)}" for name, reply in zip(bombs, replies, strict=True)]
            proxy.instead = instead
            it.asked(project, it.task_ids(project))
            ended = it.wait_ended(project, within_s=30)
            failed = it.told_failures(project)
            evidence = (f"/setup: {', '.join(told)}; the first in a project that the worker reads: {failed} of 6 tasks "
                        f"failed with their reason{'' if ended else ', the others still wait'}.")  # fmt: skip
            return Finding(all(_refused(reply) for reply in replies) and ended, evidence)

        return it.attacked("labeling configs that cost minutes", act)


def webhook_flood(server: Serving, scale: float) -> Row:
    """Thousands of webhooks that name projects nobody knows."""
    count = round(3000 * scale)
    with ground(server) as it:
        project = it.project(8, name="in the flood")
        ids = it.task_ids(project)

        def act() -> Finding:
            names = ({"action": "PROJECT_UPDATED", "project": {"id": 1_000_000 + n}, "tasks": [n + 1]}
                     for n in range(count))  # fmt: skip
            calls = [partial(it.send, "/webhook", body, within_s=10) for body in names]
            sent = at_once(list(calls), threads=8, until=time.monotonic() + 40)
            queued, known = _jobs(it), int(it.house.redis.scard("zeromask:projects"))
            started = time.monotonic()
            it.asked(project, ids)
            ended = it.wait_ended(project, within_s=30)
            took = f"took {time.monotonic() - started:.1f} s" if ended else "were not done within 30 s"
            evidence = (f"{sent} webhooks: {queued} jobs wait, {known} projects are noted; 8 tasks asked for then "
                        f"{took}.")  # fmt: skip
            return Finding(ended and it.predicted(project) == 8, evidence)

        return it.attacked("webhooks that name unknown projects", act)


def half_open(server: Serving, scale: float) -> Row:
    """Connections that send half a request, or a byte now and then."""
    count, seconds = round(900 * scale), 20 * max(scale, 0.4)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    pieces = (b"", b"GET /hea", head, head + b"Content-Length: 1000000\r\n\r\n{", head + b"Content-Length: 5\r\n\r\n",
              head + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\n{")  # fmt: skip
    with ground(server) as it:
        address = urlsplit(it.url)

        def act() -> Finding:
            with ExitStack() as opened:
                lines = [opened.enter_context(socket.socket()) for _ in range(count)]
                taken = sum(_begins(line, (address.hostname or "", address.port or 0), pieces[n % len(pieces)])
                            for n, line in enumerate(lines))  # fmt: skip
                deadline, answered = time.monotonic() + seconds, 0
                while time.monotonic() < deadline:
                    for line in lines[:: max(1, count // 50)]:
                        with suppress(OSError):
                            line.send(b" ")
                    answered += it.send("/health", method="GET", within_s=5).status == 200
                    time.sleep(1)
            evidence = f"{taken} connections held for {seconds:.0f} s; /health answered {answered} times."
            return Finding(answered > 0, evidence)

        return it.attacked("half-open connections and slow bodies", act)


def cheap_bytes(server: Serving, scale: float) -> Row:
    """Bytes that cost the sender less than the reader: requests nobody waits for, chunks of a byte, bare line ends."""
    count, seconds = round(200 * scale), 8 * max(scale, 0.4)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    floods = ((b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200), (b"", b"\r\n" * 4000),
              (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1500))  # fmt: skip
    with ground(server) as it:
        address = urlsplit(it.url)
        place = (address.hostname or "", address.port or 0)

        def act() -> Finding:
            sent, deadline = 0, time.monotonic() + seconds
            with ExitStack() as opened:
                lines: dict[int, socket.socket] = {}
                while time.monotonic() < deadline:
                    for number in range(count):
                        first, more = floods[number % len(floods)]
                        try:
                            if number not in lines:
                                lines[number] = opened.enter_context(socket.create_connection(place, timeout=5))
                                lines[number].setblocking(False)
                                lines[number].send(first)
                            sent += lines[number].send(more)
                        except BlockingIOError:
                            continue
                        except OSError:  # cut off: it comes again
                            if number in lines:
                                lines.pop(number).close()
            answered = [it.send("/health", method="GET", within_s=5).status for _ in range(5)].count(200)
            evidence = (f"{count} connections sent {sent / 1e6:.0f} MB in {seconds:.0f} s and read nothing; afterwards "
                        f"/health answered {answered} of 5 times.")  # fmt: skip
            return Finding(answered == 5, evidence)

        return it.attacked("requests nobody waits for, chunks of a byte", act)


def empty_lists(server: Serving, scale: float) -> Row:
    """Bodies of 115 MB of nothing."""
    lists = b"[]," * round(115_000_000 * scale / 3) + b"[]"
    head = b'{"project":"9.1","label_config":"<View/>","schema":"<View/>","action":"PROJECT_UPDATED","params":{},'
    unknown = head + b'"tasks":[{"id":1}],"more":[' + lists + b"]}"
    names = [*(f"{path}, unknown field" for path in _POSTS), "/predict, a task's data", "/webhook, tasks",
             "/predict, params"]  # fmt: skip
    with ground(server) as it:

        def act() -> Finding:
            replies = [it.send(path, unknown, within_s=30) for path in _POSTS]
            body = head + b'"tasks":[{"id":1,"data":[' + lists + b"]}]}"
            replies.append(it.send("/predict", body, within_s=30))
            body = head + b'"tasks":[' + lists + b"]}"
            replies.append(it.send("/webhook", body, within_s=30))
            body = head.replace(b'"params":{},', b'"params":{"context":[' + lists + b"]},") + b'"tasks":[{"id":1}]}'
            replies.append(it.send("/predict", body, within_s=30))
            told = [f"{name} {_told(reply)}" for name, reply in zip(names, replies, strict=True)]
            slow = [reply for reply in replies if reply.seconds > 20 or reply.status >= 500]
            return Finding(not slow, f"{len(lists) / 1e6:.0f} MB each. {'; '.join(told)}.")

        return it.attacked("bodies of a hundred megabytes of nothing", act)


def strange_hosts(server: Serving, scale: float) -> Row:
    """Requests under a host name that a page in somebody's browser made point here."""
    hosts = ("rebind.evil.example", "rebind.evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example",
             "localhost@evil.example", "xn--localhost-x.example", "")  # fmt: skip
    with ground(server) as it:

        def act() -> Finding:
            body = {"project": "9.1", "schema": CONFIG.format(more=""), "label_config": CONFIG.format(more=""),
                    "tasks": [], "action": "PROJECT_UPDATED"}  # fmt: skip
            replies = [it.send(path, body if method == "POST" else b"", method=method, headers={"Host": host})
                       for host in hosts for method, paths in (("POST", _POSTS), ("GET", _GETS[1:]))
                       for path in paths]  # fmt: skip
            answered = sum(reply.status < 400 and reply.status > 0 for reply in replies)
            port = urlsplit(it.url).port
            own = [it.send("/metrics", method="GET", headers={"Host": f"{name}:{port}"}).status
                   for name in ("localhost", "127.0.0.1", "[::1]")]  # fmt: skip
            evidence = (f"{len(replies)} requests under {len(hosts)} strange names: {answered} answered; under its own "
                        f"names {own.count(200)} of {len(own)} were.")  # fmt: skip
            return Finding(answered == 0 and own.count(200) == len(own), evidence)

        return it.attacked("strange host names (DNS rebinding)", act)


def sign_in(server: Serving, scale: float) -> Row:
    """Without signing in, with a wrong password, by guessing, and past the sign-in."""
    guesses = round(500 * scale)
    with ground(server, user=_USER, password=_PASSWORD, webhook_secret=_SECRET) as it:
        webhook = {"action": "PROJECT_UPDATED", "project": {"id": 1_000_000}}

        def act() -> Finding:
            wrong = (None, "Basic !!!", "Bearer x", basic(_USER, ""), basic("", _PASSWORD), "Basic " + "A" * 5000,
                     basic(_USER, _PASSWORD + "x"), basic(_USER.upper(), _PASSWORD))  # fmt: skip
            asks = [partial(it.send, path, webhook if method == "POST" else b"", method=method, signed=False,
                            headers={"Authorization": header} if header else {})
                    for header in wrong for method, paths in (("POST", _POSTS), ("GET", _GETS[1:]))
                    for path in paths]  # fmt: skip
            let_in = [reply for reply in (ask() for ask in asks) if reply.status not in (0, 401, 403, 429)]
            replies: list[Reply] = []
            calls = [lambda n=n: replies.append(it.send("/versions", method="GET", within_s=10, headers={
                "Authorization": basic(_USER, f"guess {n}")})) for n in range(guesses)]  # fmt: skip
            started = time.monotonic()
            at_once(list(calls), threads=8, until=started + 20)
            seconds = time.monotonic() - started
            guessed = sum(reply.status == 200 for reply in replies)
            right = it.send("/versions", method="GET").status
            secret = it.send("/webhook", webhook, signed=False, headers={"X-Zeromask-Secret": _SECRET}).status
            missed = it.send("/webhook", webhook, signed=False, headers={"X-Zeromask-Secret": _SECRET + "x"}).status
            told = _label_studio_tells(it)
            refused, said = _open_to_all(it)
            evidence = (f"{len(asks)} requests without or with a wrong sign-in: {len(let_in)} let in; {len(replies)} "
                        f"guesses in {seconds:.1f} s: {guessed} let in; right sign-in then {right}; webhook with the "
                        f"secret {secret}, with a wrong one {missed}; Label Studio's own webhook "
                        f"{'arrives' if told else 'does not arrive'}; on 0.0.0.0 without sign-in: {said}.")  # fmt: skip
            held = not let_in and not guessed and right == 200 and secret in (200, 201) and missed in (401, 403, 429)
            return Finding(held and told and refused, evidence)

        return it.attacked("no sign-in, wrong ones, guessing", act)


def _label_studio_tells(it: Ground) -> bool:
    """Whether a webhook of a real Label Studio gets through: the worker has put the secret into it."""
    project, hints = it.project(0, name="signed webhook"), ProjectHints(it.house.redis)

    def arrives() -> bool:
        it.house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"title": f"at {time.time()}"})
        return hints.last_webhook(project) is not None

    it.house.redis.sadd("zeromask:projects", project)  # as its first task would
    return wait_for(arrives, within_s=120)


def _open_to_all(it: Ground) -> tuple[bool, str]:
    """Start a backend on every address of the machine without a sign-in."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ZEROMASK_")}
    env |= {"MODEL": "builtin", "REDIS_URL": it.house.services.redis_url, "ZEROMASK_HOST": "0.0.0.0",
            "ZEROMASK_PORT": str(free_port()), "ZEROMASK_STATE_DIR": f"{it.settings.state_dir}/open"}  # fmt: skip
    process = subprocess.Popen(module_command("backend"), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False, "it listened"
    return process.returncode == 2 and b"ZEROMASK_USER" in output, f"ended with {process.returncode}"


def _jobs(it: Ground) -> int:
    """Jobs that wait in all queues."""
    names: set[bytes] = it.house.redis.smembers("rq:queues")  # type: ignore[assignment]
    return sum(int(it.house.redis.llen(name.decode())) for name in names)


def _begins(line: socket.socket, address: tuple[str, int], piece: bytes) -> bool:
    line.settimeout(0.2)
    try:
        line.connect(address)
        line.sendall(piece)
    except OSError:
        return False
    return True


def _refused(reply: Reply) -> bool:
    return reply.seconds < _REFUSED_S and (reply.status == 0 or 400 <= reply.status < 500)


def _told(reply: Reply) -> str:
    return f"{reply.status or 'cut off'} in {reply.seconds:.1f} s"
