"""Settings from an environment, and what each wrong value is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings, settings_table


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


def test_the_table_lists_every_setting_once() -> None:
    rows = settings_table()
    assert len({row.env for row in rows}) == len(rows) == len(Settings.__dataclass_fields__)
    assert all(row.meaning.rstrip().endswith(".") for row in rows)


def test_the_engine_is_told_by_what_changes_the_masks_and_by_nothing_else() -> None:
    assert Settings(model="builtin", threads=3, port=1, precision="fp32").engine == ""
    changed: list[dict[str, Any]] = [
        {"short_side": 64}, {"windows": 4}, {"readout": "naclip"}, {"affinity_tower": "t"}, {"refiner": "r"},
        {"least_score": 0.0},
    ]  # fmt: skip
    told = {Settings(**one).engine for one in changed}
    assert len(told) == len(changed)
    assert all(re.fullmatch("[0-9a-f]{4}", engine) for engine in told)
