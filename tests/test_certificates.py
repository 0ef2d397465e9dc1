"""TLS to Label Studio, to images and to Redis: whose certificates are trusted, and what is told of the others."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from plugin_config.certificates import check_bundle, trust
from plugin_config.errors import ImageHostTrouble, LabelStudioUnreachable, QueueUnavailable, SettingsError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.overview.control import QueueControl
from plugin_config.queue.connection import open_redis, unavailable
from plugin_config.settings import Settings
from tests.http_server import Answer, Server, as_json, serving
from tests.tls import Authority, authority, terminating
from worker.label_studio.fetching import fetch_file
from worker.label_studio.images import ImageLimits
from worker.service.queue_worker import connect

TOKEN = "0123456789abcdef"
PROJECT = {"id": 1, "title": "one", "label_config": "<View/>"}
LIMITS = ImageLimits(most_bytes=1000, most_pixels=1000, timeout_s=5.0, allow_private=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"))


@contextmanager
def showing(context: ssl.SSLContext, *, host: str = "localhost") -> Iterator[Server]:
    with serving(lambda asked: as_json(PROJECT), host=host, tls=context) as server:
        yield server


def ask(url: str, bundle: str = "") -> str:
    with LabelStudio(url, TOKEN, timeout_s=5, ca_bundle=bundle) as label_studio:
        return label_studio.project(1).title


def fetch(url: str, bundle: str = "") -> bytes:
    with LabelStudio("http://labels.example", TOKEN) as label_studio:
        limits = replace(LIMITS, ca_bundle=bundle)
        return fetch_file(url, task=1, project=1, label_studio=label_studio, limits=limits)


def test_an_authority_of_the_bundle_is_trusted_and_no_other(own: Authority, tmp_path: Path) -> None:
    other = authority(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(other.bundle).read_bytes() + Path(own.bundle).read_bytes())
    with showing(own.context("localhost")) as server:
        assert ask(server.url, own.bundle) == ask(server.url, str(both)) == "one"
        for bundle in ("", other.bundle):
            with pytest.raises(LabelStudioUnreachable, match=r"authority not known here.*Set ZEROMASK_CA_BUNDLE"):
                ask(server.url, bundle)
        assert len(server.asked) == 2, "nothing is sent to a server that is not trusted"


WRONG = [
    pytest.param({"names": ["localhost"], "age_days": 40, "life_days": 30}, r"has expired.*Renew it", id="expired"),
    pytest.param({"names": ["localhost"], "age_days": -2}, "not valid yet.*clocks", id="of tomorrow"),
    pytest.param({"names": ["labels.example"]}, r"for another host name.*'localhost'", id="of another host"),
]


@pytest.mark.parametrize(("certificate", "told"), WRONG)
def test_a_certificate_that_is_wrong_is_told_as_what_it_is(
    certificate: dict[str, object], told: str, own: Authority
) -> None:
    given = dict(certificate)
    names = given.pop("names")
    assert isinstance(names, list)
    with showing(own.context(*names, **given)) as server:  # type: ignore[arg-type]
        with pytest.raises(LabelStudioUnreachable, match=told) as caught:
            ask(server.url, own.bundle)
        assert "Check that it runs" not in str(caught.value)
        with pytest.raises(ImageHostTrouble, match=told):
            fetch(f"{server.url}/a.png", own.bundle)
        assert server.asked == []


def test_a_port_without_tls_is_told() -> None:
    with serving(lambda asked: Answer()) as server, pytest.raises(LabelStudioUnreachable, match=r"TLS.*http://"):
        ask(server.url.replace("http:", "https:"))


def test_images_are_fetched_by_the_name_of_the_certificate_from_the_address_that_was_checked(own: Authority) -> None:
    asked_for: list[str | None] = []
    context = own.context("localhost")
    context.sni_callback = lambda _, name, __: asked_for.append(name)
    with showing(context) as server:
        assert fetch(f"{server.url}/a.png", own.bundle)
        with pytest.raises(ImageHostTrouble, match=r"image of task 1: .*authority not known.*ZEROMASK_CA_BUNDLE"):
            fetch(f"{server.url}/a.png")
    assert asked_for == ["localhost", "localhost"]
    with showing(own.context("127.0.0.1"), host="127.0.0.1") as server:
        assert fetch(f"{server.url}/a.png", own.bundle)


@pytest.mark.parametrize("known", [True, False])
def test_redis_over_tls_uses_the_bundle(known: bool, own: Authority) -> None:
    """What answers is no Redis: it is enough that its certificate was accepted before."""
    with showing(own.context("localhost")) as server:
        url = f"rediss://localhost:{server.url.rpartition(':')[2]}/0"
        bundle = own.bundle if known else ""
        redis = open_redis(url, connect_s=30, answer_s=2, one_retry=True, ca_bundle=bundle)
        with redis, pytest.raises(RedisError) as caught:
            redis.ping()
    told = str(unavailable(caught.value))
    assert ("Set ZEROMASK_CA_BUNDLE" in told) is not known, told
    assert ("does not answer" in told) is known, told


def test_a_real_redis_is_reached_over_tls_with_user_and_password(
    own: Authority, redis: Redis, redis_url: str
) -> None:
    redis.acl_setuser("worker", enabled=True, passwords=["+a secret"], keys=["*"], commands=["+@all"])
    try:
        with terminating(own.context("localhost"), redis_url.removeprefix("unix://")) as port:
            settings = Settings(redis_url=f"rediss://worker:a%20secret@localhost:{port}/0", ca_bundle=own.bundle)
            with connect(settings, timeout_s=5) as encrypted:
                assert encrypted.acl_whoami() == "worker"
                QueueControl(encrypted, settings).pause(7)
            assert [row.paused for row in QueueControl(redis, settings).state(projects=[7]).projects] == [True]
            wrong = replace(settings, redis_url=settings.redis_url.replace("a%20secret", "another"))
            with pytest.raises(QueueUnavailable, match=r"refuses the sign-in.*Correct user and password") as caught:
                connect(wrong, timeout_s=5)
            assert "another" not in str(caught.value)
            with pytest.raises(QueueUnavailable, match="Set ZEROMASK_CA_BUNDLE"):
                connect(replace(settings, ca_bundle=""), timeout_s=5)
    finally:
        redis.acl_deluser("worker")


def broken(own: Authority, folder: Path) -> dict[str, Path]:
    good = Path(own.bundle).read_bytes()
    contents = {
        "empty": b"", "text": b"hello\n", "DER": ssl.PEM_cert_to_DER_cert(good.decode()), "cut": good[:-60],
        "good and cut": good + good[:-60], "key": own.ca.private_key_pem.bytes(),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {**{name: folder / name for name in contents}, "missing": folder / "no.pem", "folder": folder}


@pytest.mark.parametrize("env", ["ZEROMASK_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("kind", ["empty", "text", "DER", "cut", "good and cut", "key", "missing", "folder"])
def test_a_bundle_that_is_none_is_one_error_at_the_start(
    env: str, kind: str, own: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(broken(own, tmp_path)[kind])
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({env: path})
    assert str(caught.value).startswith(f"setting {env}: names ")
    assert path in str(caught.value)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if env == "SSL_CERT_FILE":
        monkeypatch.setenv(env, path)
    with pytest.raises(SettingsError, match=f"setting {env}"):
        ask("https://localhost:1", path if env == "ZEROMASK_CA_BUNDLE" else "")


def test_a_bundle_is_passed_on_to_every_process(own: Authority) -> None:
    settings = Settings.from_env({"ZEROMASK_CA_BUNDLE": own.bundle})
    assert settings.environment("backend")["ZEROMASK_CA_BUNDLE"] == own.bundle
    assert settings.environment("worker")["ZEROMASK_CA_BUNDLE"] == own.bundle
    check_bundle("ZEROMASK_CA_BUNDLE", own.bundle)


def test_the_usual_variables_stand_in_place_of_the_system(
    own: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {entry["serialNumber"] for entry in trust().get_ca_certs()}
    assert len(known) > 50
    monkeypatch.setenv("SSL_CERT_FILE", own.bundle)
    assert len(trust().get_ca_certs()) == 1
    beside = authority(tmp_path, "beside")
    assert len(trust(beside.bundle).get_ca_certs()) == 2


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "ZEROMASK_CA_BUNDLE"])
def test_nothing_turns_the_check_off(variable: str, own: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PYTHONHTTPSVERIFY", "0"), ("CURL_CA_BUNDLE", ""), ("SSL_NO_VERIFY", "1"), (variable, "")):
        monkeypatch.setenv(name, value)
    context = trust()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    with showing(own.context("localhost")) as server, pytest.raises(LabelStudioUnreachable, match="not known here"):
        ask(server.url)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SettingsError, match=r"ALL_PROXY: name a proxy.*http://"):
        LabelStudio("http://labels.example", TOKEN)


def test_a_proxy_that_refuses_is_told_as_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda asked: Answer(403)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(LabelStudioUnreachable, match=r"ProxyError.*HTTPS_PROXY.*NO_PROXY"):
            ask("https://labels.example")
