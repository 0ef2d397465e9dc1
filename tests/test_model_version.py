"""The version stamped on predictions: made in one place, read back there, and never mistaken for another's."""

from __future__ import annotations

import re

import pytest

from plugin_config.model_version import ZEROSHOT, ModelVersion, adapter_name, adapter_number, engine_name
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary

CATS = parse_vocabulary(
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels></View>'
)


@pytest.mark.parametrize(
    ("model", "begins"),
    [
        pytest.param("builtin", "builtin-zeroshot-", id="builtin"),
        pytest.param("ViT-B-16/datacomp_xl_s13b_b90k", "ViT-B-16-datacomp-xl-s13b-b90k-zeroshot-", id="open_clip"),
        pytest.param("local-dir:/models/mine", "mine-", id="folder"),
        pytest.param("/models/mine.safetensors", "mine-", id="file"),
    ],
)
def test_a_version_is_letters_digits_and_dashes(model: str, begins: str) -> None:
    version = str(ModelVersion.of(Settings(model=model), CATS))
    assert version.startswith(begins)
    assert re.fullmatch(r"[A-Za-z0-9-]+", version)
    assert "models" not in version


def test_equal_names_in_two_folders_are_two_versions() -> None:
    one, other = (ModelVersion.of(Settings(model=path), CATS) for path in ("/a/m.pt", "/b/m.pt"))
    assert str(one) != str(other)


def test_settings_that_change_masks_stand_behind_the_model() -> None:
    settings = Settings(model="builtin", windows=9)
    version = ModelVersion.of(settings, CATS, adapter="a3-0123ab")
    assert str(version) == f"builtin-{settings.engine}-a3-0123ab-{CATS.hash}"
    assert version.model == engine_name(settings)


@pytest.mark.parametrize("adapter", [ZEROSHOT, "a1-0f3b21", "a12-abcdef"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(Settings(model="builtin"), id="builtin"),
        pytest.param(Settings(model="builtin", windows=9), id="with another engine"),
        pytest.param(Settings(model="ViT-B-16/datacomp_xl_s13b_b90k"), id="dashes in the model"),
        pytest.param(Settings(model="/models/a1-0f3b21-zeroshot.pt"), id="a model named like an adapter"),
    ],
)
def test_a_version_is_read_back(settings: Settings, adapter: str) -> None:
    version = ModelVersion.of(settings, CATS, adapter=adapter)
    assert ModelVersion.parse(str(version)) == version


@pytest.mark.parametrize(
    "text", ["", "undefined", "yolo-v8", "builtin-zeroshot", "builtin-a1-00-0123abcd", "-zeroshot-0123abcd"]
)
def test_a_version_of_somebody_else_is_none(text: str) -> None:
    assert ModelVersion.parse(text) is None


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (adapter_name(7, "abcdef0123"), 7),
        ("a1-000001", 1),
        (ZEROSHOT, 0),
        ("a0-000001", 0),
        ("a7", 0),
        ("../a1-000001", 0),
    ],
)
def test_adapters_are_numbered(name: str, number: int) -> None:
    assert adapter_number(name) == number
