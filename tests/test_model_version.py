"""The version stamped on predictions: made in one place, read back there, and never mistaken for another's."""

from __future__ import annotations

import re

import pytest

from plugin_config.model_version import (
    ZEROSHOT,
    Learned,
    ModelVersion,
    adapter_name,
    adapter_number,
    engine_name,
    spelled,
)
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary

CATS = parse_vocabulary(
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels></View>'
)


FIGURE = "+9 corrected"
B16 = "ViT-B-16/datacomp_xl_s13b_b90k"


@pytest.mark.parametrize(
    ("model", "begins"),
    [
        pytest.param("builtin", "builtin v000 zero-shot (builtin-zeroshot-", id="builtin"),
        pytest.param(B16, "ViT-B-16 v000 zero-shot (ViT-B-16-datacomp-xl-s13b-b90k-zeroshot-", id="open_clip"),
        pytest.param("ViT-SO400M-16-SigLIP2-384/webli", "ViT-SO400M v000 zero-shot (ViT-SO400M-16-SigLIP2-384-webli-",
                     id="a long name"),
        pytest.param("local-dir:/models/mine", "mine-", id="folder"),
        pytest.param("/models/mine.safetensors", "mine-", id="file"),
    ],
)  # fmt: skip
def test_a_version_begins_with_what_people_look_for(model: str, begins: str) -> None:
    version = str(ModelVersion.of(Settings(model=model), CATS))
    assert version.startswith(begins)
    assert re.fullmatch(r"[A-Za-z0-9-]+", ModelVersion.of(Settings(model=model), CATS).identity)
    assert not set(version) & set(",|/"), "Label Studio and the queue write several versions into one text"
    assert "models" not in version


def test_names_of_folders_in_other_letters_are_told_apart() -> None:
    names = ["модель", "модель-2", "кошки-2", "gatos-ñ"]
    versions = [str(ModelVersion.of(Settings(model=f"local-dir:{name}"), CATS)) for name in names]
    assert len(set(versions)) == len(names)
    assert all(ModelVersion.parse(version) is not None and version[0].isalnum() for version in versions), versions


def test_what_was_learned_and_when_is_in_the_tab_of_the_editor() -> None:
    learned = Learned(FIGURE, "2026-11-29")
    version = ModelVersion.of(Settings(model=B16), CATS, adapter="a7-0f3b21", learned=learned)
    assert str(version) == f"ViT-B-16 v007 +9 corrected (2026-11-29 {version.identity}) v007"
    assert in_its_tab(str(version)) == "ViT-B-16...) v007"
    assert in_its_tab(str(ModelVersion.of(Settings(model="builtin"), CATS))) == "builtin ...) v000"


def in_its_tab(name: str) -> str:
    """What the editor of Label Studio 1.23.2 shows of a longer name than 15 characters, other than those of people."""
    return f"{name[:8]}...{name[-6:]}"


def test_versions_of_a_model_sort_by_age_as_texts_and_as_values() -> None:
    names = [ZEROSHOT, "a2-ffffff", "a7-0f3b21", "a12-000000", "a123-abcdef"]
    texts = [str(ModelVersion.of(Settings(model=B16), CATS, adapter=name)) for name in names]
    assert sorted(set(texts)) == texts
    found = [version for version in map(ModelVersion.parse, set(texts)) if version is not None]
    assert [version.adapter for version in sorted(found, key=lambda version: version.order)] == names
    assert len({text.rpartition("(")[2] for text in texts}) == len(texts)


def test_equal_names_in_two_folders_are_two_versions() -> None:
    one, other = (ModelVersion.of(Settings(model=path), CATS) for path in ("/a/m.pt", "/b/m.pt"))
    assert str(one) != str(other)


def test_settings_that_change_masks_stand_behind_the_model() -> None:
    settings = Settings(model="builtin", windows=9)
    version = ModelVersion.of(settings, CATS, adapter="a3-0123ab")
    assert version.identity == f"builtin-{settings.engine}-a3-0123ab-{CATS.hash}"
    assert str(version) == f"builtin v003 learned ({version.identity}) v003"
    assert version.model == engine_name(settings)


@pytest.mark.parametrize("learned", [Learned(), Learned(FIGURE), Learned("lseg +12 corrected", "2026-11-29")])
@pytest.mark.parametrize("adapter", [ZEROSHOT, "a1-0f3b21", "a1234-abcdef"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(Settings(model="builtin"), id="builtin"),
        pytest.param(Settings(model="builtin", windows=9), id="with another engine"),
        pytest.param(Settings(model=B16), id="dashes in the model"),
        pytest.param(Settings(model="/models/a1-0f3b21-zeroshot.pt"), id="a model named like an adapter"),
    ],
)
def test_a_version_is_read_back_as_this_and_earlier_releases_spell_it(
    settings: Settings, adapter: str, learned: Learned
) -> None:
    version = ModelVersion.of(settings, CATS, adapter=adapter, learned=learned)
    found = ModelVersion.parse(str(version))
    assert found == version
    assert found is not None
    assert found.learned == learned
    assert str(found) == str(version)
    former = ModelVersion.parse(version.identity)
    assert former == version
    assert former is not None
    assert former.identity == version.identity


@pytest.mark.parametrize(
    "text",
    [
        "", "undefined", "yolo-v8", "builtin-zeroshot", "builtin-a1-00-0123abcd", "-zeroshot-0123abcd",
        "yolo v008 best (run 3)", "builtin v003 learned (builtin-a4-0f3b21-0123abcd) v003",
        "builtin v003 learned () v003", "builtin v000 zero-shot (builtin-zeroshot-0123abcd) v000 ",
        "builtin v000  (builtin-zeroshot-0123abcd) v000", "builtin v000 zero-shot (builtin-zeroshot-0123abcd) v001",
    ],
)  # fmt: skip
def test_a_version_of_somebody_else_is_none(text: str) -> None:
    assert ModelVersion.parse(text) is None


def test_a_number_that_no_computer_reads_is_none_of_ours() -> None:
    """Anybody may store predictions under any name."""
    ours = str(ModelVersion("builtin", ZEROSHOT, "01234567"))
    assert ModelVersion.parse(ours.replace("v000", "v" + "0" * 9)) is not None
    assert ModelVersion.parse(ours.replace("v000", "v" + "9" * 5000)) is None


def test_stored_predictions_keep_the_version_they_carry_as_long_as_it_is_the_same() -> None:
    version = ModelVersion.of(Settings(model="builtin"), CATS, adapter="a3-0123ab", learned=Learned(FIGURE))
    assert spelled(version, version.identity) == version.identity
    assert spelled(version, "") == spelled(version, "yolo-v8") == str(version)
    assert spelled(version, str(ModelVersion.of(Settings(model="builtin"), CATS))) == str(version)


@pytest.mark.parametrize("source", ["x" * 60, "a (b)", "a, b", "a|b", " a", "\x1b[31m"])
def test_what_a_version_may_say_of_an_adapter(source: str) -> None:
    with pytest.raises(ValueError, match="source must be"):
        Learned(source)


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
