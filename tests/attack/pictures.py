"""Attacks through the images that tasks name."""

from __future__ import annotations

import posixpath
import threading
import time
from urllib.parse import unquote, urlsplit

from tests.attack import payloads
from tests.attack.between import between
from tests.attack.ground import OWN, Finding, Ground, Row, ground
from tests.faults.stand import Serving
from tests.house import picture
from tests.http_server import Answer, Asked, serving

_TRIED_S = 25.0
# What Label Studio serves files under.
_FILES = ("/data/", "/static/", "/storage-data/", "/tasks/", "/api/storages/")


def token_leaves(server: Serving, scale: float) -> Row:
    """Addresses that look like Label Studio's own and lead elsewhere, and redirects away from it."""
    with serving(lambda asked: Answer(body=picture(top=30))) as host:
        place = urlsplit(host.url).netloc

        def instead(path: str) -> Answer | None:
            to = {"away.png": host.url, "slashes.png": f"//{place}", "tab.png": f"/\t/{place}",
                  "back.png": f"/\\{place}"}.get(path.rpartition("/")[2])  # fmt: skip
            return Answer(302, headers={"Location": f"{to}/redirected.png"}) if to else None

        with between(server.url, instead) as proxy, ground(
            server, through=proxy.url, allow_private_images=True, image_timeout_s=5.0
        ) as it:  # fmt: skip
            redirected = [f"{OWN}{name}.png" for name in ("away", "slashes", "tab", "back")]
            urls = hostile(place, proxy.url) + redirected
            project = it.addresses(urls, name="token")

            def act() -> Finding:
                _try_all(it, project, within_s=_TRIED_S * max(scale, 0.4))
                leaks = [asked for asked in host.asked if "authorization" in {name.lower() for name in asked.headers}]
                evidence = (f"{len(urls)} addresses, private ones allowed: {len(host.asked)} requests reached the "
                            f"strange host, {len(leaks)} with the token{_paths(leaks)}.")  # fmt: skip
                return Finding(not leaks, evidence)

            return it.attacked("the token sent to a strange host", act)


def private_addresses(server: Serving, scale: float) -> Row:
    """Addresses that mean this machine, in every spelling, under default settings."""
    with serving(lambda asked: Answer(body=picture(top=30))) as host, ground(server, image_timeout_s=5.0) as it:
        place, port = urlsplit(host.url).netloc, urlsplit(host.url).port
        names = ("127.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0.0.0.0", "127.0.0.2", "localhost",
                 "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:0:7f00:1]",
                 "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[fec0::1]", "[fe80::1]", "localhost.",
                 "LOCALHOST", "169.254.169.254", "user@127.0.0.1", "\uff11\uff12\uff17.0.0.1",
                 "127\u30020\u30020\u30021")  # fmt: skip
        urls = [f"http://{name}:{port}/x.png" for name in names] + hostile(place, server.url)
        project = it.addresses(urls, name="private")

        def act() -> Finding:
            _try_all(it, project, within_s=_TRIED_S)
            evidence = f"{len(urls)} addresses: {len(host.asked)} requests reached this machine{_paths(host.asked)}."
            return Finding(not host.asked, evidence)

        return it.attacked("private addresses in every spelling", act)


def other_paths(server: Serving, scale: float) -> Row:
    """Tasks that make the token fetch what is no file: any path of Label Studio, and files of another project."""
    with between(server.url) as proxy:
        away = lambda asked: Answer(302, headers={"Location": proxy.url + asked.path.removeprefix("/to")})  # noqa: E731
        with serving(away) as host, ground(server, through=proxy.url, allow_private_images=True) as it:
            victim = it.project(1, name="victim")
            (theirs,) = it.house.label_studio.tasks(victim, it.task_ids(victim))
            paths = [
                f"/api/projects/{victim}/next/?attack=1", "/api/current-user/whoami?attack=2", "/api/users/?attack=3",
                f"{proxy.url}/api/projects/?attack=4", f"/projects/{victim}/export?attack=5", "/logout?attack=6",
                "/data/../api/current-user/whoami?attack=7", "/data/%2e%2e/api/users/?attack=8",
                "/static/..%2fapi/users/?attack=9", "/data/upload/../../api/users/?attack=10",
                f"{host.url}/to/api/users/?attack=11", "//localhost/../api/users/?attack=12",
                "/data\\..\\api/users?attack=13", "/./api/users/?attack=14", "/?attack=15", "/user/account?attack=16",
                "/data/;/../../api/users/?attack=17",
                f"/api/tasks/{theirs.id}/?attack=18", f"/api/dm/views?project={victim}&attack=19",
            ]  # fmt: skip
            project = it.addresses([*paths, str(theirs.data["image"])], name="paths")

            def act() -> Finding:
                _try_all(it, project, within_s=_TRIED_S)
                fetched = [asked for asked, _ in proxy.asked if "attack=" in asked and not _is_file(asked)]
                seen = it.predicted(project)
                evidence = (f"{len(paths)} paths that are no files: {len(fetched)} fetched with the token"
                            f"{_first(fetched)}; a picture of another project: {seen} predicted.")  # fmt: skip
                return Finding(not fetched and not seen, evidence)

            return it.attacked("paths of Label Studio and files of other projects", act)


def compressed_answers(server: Serving, scale: float) -> Row:
    """Answers of some kilobytes that unpack to gigabytes."""
    double, single = (payloads.gzip_of_zeros(round(2000 * scale), layers=layers) for layers in (2, 1))
    answers = {"two": Answer(body=double, headers={"Content-Encoding": "gzip, gzip"}),
               "one": Answer(body=single, headers={"Content-Encoding": "gzip"}),
               "x": Answer(body=double, headers={"Content-Encoding": "x-gzip,identity,gzip"})}  # fmt: skip

    def instead(path: str) -> Answer | None:
        return answers.get(urlsplit(path).path.rpartition("/")[2].removesuffix(".png"))

    with (
        serving(lambda asked: instead(asked.path) or Answer(404)) as host, between(server.url, instead) as proxy,
        ground(server, through=proxy.url, allow_private_images=True) as it,
    ):  # fmt: skip
        # Also as files of its own project, so that nothing but their packing speaks against them.
        urls = [f"{start}{name}.png" for start in (f"{host.url}/", OWN) for name in answers]
        project = it.addresses(urls, name="compressed")

        def act() -> Finding:
            _try_all(it, project, within_s=_TRIED_S)
            evidence = (f"{len(urls)} answers of {len(double) / 1e3:.0f} kB and {len(single) / 1e6:.1f} MB that unpack "
                        f"to {2 * scale:.1f} GB: {it.told_failures(project)} failed with their reason.")  # fmt: skip
            return Finding(it.predicted(project) == 0, evidence)

        return it.attacked("answers that unpack to gigabytes", act)


def needles(server: Serving, scale: float) -> Row:
    """Pictures one pixel wide and a hundred million high, and the other way round, beside good ones."""
    long = round(100_000_000 * scale)
    with ground(server) as it:
        thin = [payloads.png(1, long), payloads.png(long, 1, pixel=b"\x80")]
        project = it.pictures([*thin, *(picture(top=20 + n) for n in range(6))], name="needles")

        def act() -> Finding:
            before = it.pids()["worker"]
            it.ask(project, it.task_ids(project))
            it.wait_ended(project, within_s=40)
            died, good = it.pids()["worker"] != before, it.predicted(project)
            evidence = (f"pictures of 1 x {long:,} and {long:,} x 1 pixels ({len(thin[0]) // 1000} kB): "
                        f"{'the worker died' if died else 'the worker lives'}; of 6 good ones beside them and the two, "
                        f"{good} predicted, {it.told_failures(project)} failed with their reason.")  # fmt: skip
            return Finding(not died and good >= 6, evidence)

        return it.attacked("pictures as thin as needles", act)


def vast_pictures(server: Serving, scale: float) -> Row:
    """Small files of a hundred million pixels each."""
    side = round(10_000 * scale**0.5)
    with ground(server) as it:
        files = [payloads.png(side, side)] * 6 + [payloads.png(side, side, pixel=b"\x80\x40")] * 2
        project = it.pictures(files, name="vast")

        def act() -> Finding:
            it.ask(project, it.task_ids(project))
            ended = it.wait_ended(project, within_s=60)
            evidence = (f"{len(files)} pictures of {side} x {side} pixels ({len(files[0]) // 1000} kB; two of them "
                        f"grey of 16 bits): {it.predicted(project)} predicted, {it.told_failures(project)} failed with "
                        f"their reason{'' if ended else ', the others still wait after 60 s'}.")  # fmt: skip
            return Finding(True, evidence)

        return it.attacked("small files of a hundred megapixels", act)


def hanging_images(server: Serving, scale: float) -> Row:
    """Dozens of images on hosts that take a connection and never answer."""
    count, over = round(40 * scale), threading.Event()

    def answer(asked: Asked) -> Answer:
        over.wait(120)
        return Answer(404)

    with serving(answer) as host, ground(server, allow_private_images=True) as it:
        hanging = it.addresses([f"{host.url}/{number}.png" for number in range(count)], name="hanging")
        bulk = it.project(8, name="bulk")

        def act() -> Finding:
            it.ask(hanging, it.task_ids(hanging))
            started = time.monotonic()
            it.ask(bulk, it.task_ids(bulk))
            ended = it.wait_ended(bulk, within_s=30)
            took = f"{time.monotonic() - started:.1f} s" if ended else "more than 30 s"
            over.set()
            return Finding(ended, f"{count} images whose host never answers; 8 tasks of another project took {took}.")

        try:
            return it.attacked("images that hang", act)
        finally:
            over.set()


def dear_files(server: Serving, scale: float) -> Row:
    """Files that are dear to open: a comment of 30 MB, texts that unpack, thousands of frames."""
    with ground(server) as it:
        files = [payloads.ppm_with_comment(round(30 * scale))] * 3 + [
            payloads.png_with_text(200, 60), payloads.gif(round(2000 * scale), 64), b"%!PS-Adobe-3.0 EPSF-3.0\n" * 1000,
            b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(10_000)]  # fmt: skip
        project = it.pictures([*files, *(picture(top=20 + n) for n in range(6))], name="dear")

        def act() -> Finding:
            started = time.monotonic()
            it.ask(project, it.task_ids(project))
            ended = it.wait_ended(project, within_s=60)
            seconds, done = time.monotonic() - started, it.predicted(project)
            evidence = (f"{len(files)} files beside 6 good ones: {done} predicted, {it.told_failures(project)} failed "
                        f"with their reason, in {seconds:.1f} s.")  # fmt: skip
            return Finding(ended and done >= 6, evidence)

        return it.attacked("files that are dear to open", act)


def many_labels(server: Serving, scale: float) -> Row:
    """A project of thousands of labels beside others."""
    labels = round(5000 * scale)
    with ground(server) as it:
        project = it.project(12, name="labels")
        config = payloads.labeling_config(labels)
        it.house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
        bulk = it.project(8, name="beside labels")

        def act() -> Finding:
            body = {"tasks": [{"id": task} for task in it.task_ids(project)], "project": f"{project}.1", "params": {},
                    "label_config": config}  # fmt: skip
            reply = it.send("/predict", body)
            started = time.monotonic()
            it.ask(bulk, it.task_ids(bulk))
            ended = it.wait_ended(bulk, within_s=30)
            took = f"{time.monotonic() - started:.1f} s" if ended else "more than 30 s"
            evidence = (f"12 tasks of a project of {labels} labels, answered {reply.status}; 8 tasks of another "
                        f"project took {took}.")  # fmt: skip
            return Finding(ended and 0 < reply.status < 500, evidence)

        return it.attacked("thousands of labels", act)


def hostile(place: str, label_studio: str) -> list[str]:
    """Addresses that lead to `place` (host:port) for one reader and to Label Studio for another."""
    own = urlsplit(label_studio)
    signs = ["\t", "\n", "\r", "\r\n", "\x0b", "\x00", "\x1f", " ", "\x7f", "\u2028", "\u00a0"]
    found = [
        *(f"/{sign}/{place}/x.png" for sign in signs), *(f"{sign}//{place}/x.png" for sign in signs[:4]),
        *(f"{OWN}{sign}//{place}/x.png" for sign in signs[:3]),
        f"//{place}/x.png", f"/\\{place}/x.png", f"\\\\{place}/x.png", f"///{place}/x.png", f"http:///{place}/x.png",
        f"{label_studio}@{place}/x.png", f"{own.scheme}://{own.netloc}\\@{place}/x.png",
        f"{label_studio}#@{place}/x.png",
        f"{label_studio}.{place}/x.png", f"{own.scheme}://{own.hostname}:{own.port}:{place}/x.png",
        f"{label_studio}\t@{place}/x.png", f"ht\ttp://{place}/x.png", f"http:\n//{place}/x.png", f"http:{place}/x.png",
        f"http:/\t/{place}/x.png", f"{own.scheme}:\\\\{place}/x.png", f"/..//{place}/x.png", f"/.//{place}/x.png",
        f"/%09/{place}/x.png", f"/data/..//{place}/x.png", f"?//{place}/x.png", f"http://{place}/x.png",
    ]  # fmt: skip
    return [url.replace("/x.png", f"/x{number}.png") for number, url in enumerate(found)]


def _try_all(it: Ground, project: int, *, within_s: float) -> None:
    """Ask for all tasks of a project and wait until each has ended, or was tried again and again."""
    it.ask(project, it.task_ids(project))
    it.wait_ended(project, within_s=within_s)


def _is_file(asked: str) -> bool:
    path = unquote(urlsplit(asked.partition(" ")[2]).path).replace("\\", "/")
    return posixpath.normpath(path).startswith(_FILES)


def _paths(asked: list[Asked]) -> str:
    return _first([request.path for request in asked])


def _first(paths: list[str]) -> str:
    return f" ({', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''})" if paths else ""
