"""Settings from an environment, the error of each wrong value, and the table of settings in the documentation."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings, settings_table

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_PAGE = ROOT / "docs" / "reference" / "settings.md"
"""The page of the documentation that has the table of all settings."""


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_an_empty_value_means_the_default() -> None:
    assert Settings.from_env({"MODEL": " ", "ZEROMASK_PORT": ""}) == Settings()


def test_each_kind_of_value_is_read() -> None:
    environ = {"MODEL": "builtin", "ZEROMASK_PORT": "8080", "ZEROMASK_LEASE_S": "2.5", "UNRELATED": "x"}
    settings = Settings.from_env({**environ, "ZEROMASK_ALLOW_PRIVATE_IMAGES": "Yes"})
    assert (settings.model, settings.port, settings.lease_s) == ("builtin", 8080, 2.5)
    assert settings.allow_private_images is True


@pytest.mark.parametrize("text", ["0", "no", "False", "OFF"])
def test_no_is_no(text: str) -> None:
    assert Settings.from_env({"ZEROMASK_ALLOW_PRIVATE_IMAGES": text}).allow_private_images is False


@pytest.mark.parametrize(
    ("env", "text", "says"),
    [
        pytest.param("ZEROMASK_PORT", "http", "a whole number, got 'http'", id="word for a number"),
        pytest.param("ZEROMASK_PORT", "80.5", "a whole number", id="fraction for a whole number"),
        pytest.param("ZEROMASK_PORT", "70000", "between 1 and 65535, got 70000", id="port above"),
        pytest.param("ZEROMASK_PORT", "0", "between 1 and 65535", id="port below"),
        pytest.param("ZEROMASK_LEASE_S", "soon", "a number, got 'soon'", id="word for seconds"),
        pytest.param("ZEROMASK_LEASE_S", "nan", "between 2", id="not a number"),
        pytest.param("ZEROMASK_LEASE_S", "0.1", "between 2", id="lease too short"),
        pytest.param("ZEROMASK_IMAGE_MAX_MEGAPIXELS", "inf", "must be", id="infinite"),
        pytest.param("ZEROMASK_THREADS", "-1", "at least 0, got -1", id="negative"),
        pytest.param("ZEROMASK_ALLOW_PRIVATE_IMAGES", "maybe", "yes or no, got 'maybe'", id="neither yes nor no"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(env: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({env: text})
    assert f"setting {env}: " in str(caught.value)
    assert says in str(caught.value)
    assert env in caught.value.remedy


def test_a_required_setting_that_is_empty_is_explained() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings().require("redis_url")
    assert "setting REDIS_URL: is not set" in str(caught.value)
    assert "redis://" in caught.value.remedy


def test_required_settings_that_are_filled_in_pass() -> None:
    settings = Settings(redis_url="redis://h/0")
    assert settings.require("redis_url", "model") is settings


def test_the_state_folder_is_absolute() -> None:
    assert Settings(state_dir="~/x").state_path == Path.home() / "x"
    assert Settings().state_path.is_absolute()


SIGN_IN = {"ZEROMASK_USER": "ls", "ZEROMASK_PASSWORD": "p" * 12, "ZEROMASK_WEBHOOK_SECRET": "s" * 16}


@pytest.mark.parametrize("env", ["LABEL_STUDIO_API_KEY", "REDIS_URL", "ZEROMASK_PASSWORD", "ZEROMASK_WEBHOOK_SECRET"])
def test_a_secret_may_stand_in_a_file(env: str, tmp_path: Path) -> None:
    given = {**SIGN_IN, env: "from-the-file-itself"}
    (tmp_path / "secret").write_text("from-the-file-itself\n")
    asked = {**{name: value for name, value in given.items() if name != env}, f"{env}_FILE": str(tmp_path / "secret")}
    assert Settings.from_env(asked) == Settings.from_env(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({"REDIS_URL_FILE": "{folder}/nothing"}, "cannot be read", id="no such file"),
        pytest.param({"REDIS_URL_FILE": "{folder}"}, "cannot be read", id="a folder"),
        pytest.param({"REDIS_URL_FILE": "{folder}/binary"}, "cannot be read", id="no text"),
        pytest.param({"REDIS_URL_FILE": "{folder}/empty"}, "empty file", id="nothing in it"),
        pytest.param({"REDIS_URL_FILE": "{folder}/lines"}, "more than one line", id="lines"),
        pytest.param({"REDIS_URL_FILE": "/dev/zero"}, "more than one line", id="no end"),
        pytest.param({"REDIS_URL_FILE": "{folder}/good", "REDIS_URL": "x"}, "beside REDIS_URL", id="both"),
    ],
)
def test_a_secret_file_that_cannot_be_read_is_an_error(given: dict[str, str], says: str, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("redis://:hush@h/0")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "lines").write_text("redis://:hush@h/0\nhush\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfehush")
    with pytest.raises(SettingsError, match=says) as caught:
        Settings.from_env({name: value.format(folder=tmp_path) for name, value in given.items()})
    assert "setting REDIS_URL_FILE" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_what_is_no_secret_is_not_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("builtin")
    assert Settings.from_env({"MODEL_FILE": str(tmp_path / "model")}) == Settings()


def test_secrets_are_not_shown() -> None:
    settings = Settings(redis_url="redis://:hush1@h/0", label_studio_api_key="hush2", user="ls", password="hush3" * 3,
                        webhook_secret="hush4" * 4)  # fmt: skip
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("value", ["hush\nhush hush hush hush", "hush\thush hush hush hush", "hush\x7f" * 4])
@pytest.mark.parametrize("env", sorted(SIGN_IN))
def test_what_no_header_carries_is_no_sign_in(env: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"setting {env}: holds line ends") as caught:
        Settings.from_env({**SIGN_IN, env: value})
    assert "hush" not in str(caught.value)


def test_a_webhook_secret_is_of_signs_that_label_studio_can_send() -> None:
    with pytest.raises(SettingsError, match="ZEROMASK_WEBHOOK_SECRET: holds other letters"):
        Settings.from_env({**SIGN_IN, "ZEROMASK_WEBHOOK_SECRET": "ein längeres Geheimnis"})


@pytest.mark.parametrize("missing", sorted(SIGN_IN))
def test_half_a_sign_in_is_an_error(missing: str) -> None:
    half = {name: value for name, value in SIGN_IN.items() if name != missing}
    with pytest.raises(SettingsError, match="is not set, and others of the sign-in are"):
        Settings.from_env(half)


def test_a_worker_knows_the_webhook_secret_alone_and_a_backend_does_not_start_with_it() -> None:
    settings = Settings.from_env({"ZEROMASK_WEBHOOK_SECRET": SIGN_IN["ZEROMASK_WEBHOOK_SECRET"]})
    assert not settings.signs_in
    with pytest.raises(SettingsError, match="setting ZEROMASK_USER"):
        settings.require_guarded()


def test_each_half_gets_what_it_reads() -> None:
    settings = Settings.from_env({**SIGN_IN, "LABEL_STUDIO_API_KEY": "x", "REDIS_URL": "unix:///r", "MODEL": "builtin"})
    backend, worker = settings.environment("backend"), settings.environment("worker")
    assert not {"LABEL_STUDIO_API_KEY", "LABEL_STUDIO_URL"} & set(backend)
    assert not {"ZEROMASK_USER", "ZEROMASK_PASSWORD"} & set(worker)
    assert set(backend) | set(worker) == {row.env for row in settings_table()}
    assert Settings.from_env(worker) == replace(settings, user="", password="")
    assert Settings.from_env(backend) == replace(settings, label_studio_api_key="")


@pytest.mark.parametrize("half", ["backend", "worker"])
def test_each_half_reads_nothing_that_it_does_not_get(half: Literal["backend", "worker"]) -> None:
    given = Settings(user="u", password="p" * 12, webhook_secret="s" * 16).environment(half)
    names = {item.metadata["env"]: item.name for item in fields(Settings)}
    withheld = set(names.values()) - {names[env] for env in given}
    for path in (ROOT / half).rglob("*.py"):
        read = set(re.findall(r"\b_?settings\.([a-z_]+)", path.read_text(encoding="utf-8")))
        assert not read & withheld, path


def test_the_table_of_the_documentation_is_the_settings() -> None:
    page = SETTINGS_PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`|empty) \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(row.env, row.default, row.meaning) for row in settings_table()]


def test_the_table_lists_every_setting_once() -> None:
    rows = settings_table()
    assert len({row.env for row in rows}) == len(rows) == len(Settings.__dataclass_fields__)
    assert all(row.meaning.rstrip().endswith(".") for row in rows)


def test_the_engine_changes_with_what_changes_the_masks_and_with_nothing_else() -> None:
    assert Settings(model="builtin", threads=3, port=1, precision="fp32").engine == ""
    changed: list[dict[str, Any]] = [
        {"short_side": 64}, {"windows": 4}, {"readout": "naclip"}, {"affinity_tower": "t"}, {"refiner": "r"},
        {"least_score": 0.0},
    ]  # fmt: skip
    engines = {Settings(**one).engine for one in changed}
    assert len(engines) == len(changed)
    assert all(re.fullmatch("[0-9a-f]{4}", engine) for engine in engines)


@pytest.mark.parametrize(
    ("host", "url"),
    [("[::1]", "http://[::1]:9090"), ("::", "http://[::1]:9090"), ("[::]", "http://[::1]:9090"),
     ("0.0.0.0", "http://127.0.0.1:9090"), ("masks.example.com", "http://masks.example.com:9090")],
)  # fmt: skip
def test_the_backend_is_reached_at_an_address_whatever_host_it_listens_on(host: str, url: str) -> None:
    assert Settings(host=host).backend_url == url
