"""Fingerprints stand in manifests and file names on disk: they identify weights, and no release may change them."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.text.encoder import TextEncoder
from worker.segmentation.text.store import TextStore

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("settings", "fingerprint"),
    [
        pytest.param({}, "118813f05fdf", id="defaults"),
        pytest.param({"short_side": 64}, "48ced3e4adb3", id="another entry size"),
        pytest.param({"short_side": 64, "windows": 9}, "d704eabf7bc3", id="windows"),
    ],
)
def test_manifests_of_the_builtin_stay_valid(settings: dict[str, int], fingerprint: str) -> None:
    assert Encoder("builtin", device="cpu", **settings).fingerprint == fingerprint  # type: ignore[arg-type]


def test_stored_text_embeddings_of_the_builtin_are_found_again(tmp_path: Path) -> None:
    encoder = Encoder("builtin", device="cpu")
    TextEncoder(encoder, store=TextStore(tmp_path)).classes([("red shape",)])
    assert encoder.text_fingerprint() == "56dd9371ccab90a6af801892c25b252c62780abc8cec024fa72ced1784d522c8"
    assert [path.name for path in tmp_path.iterdir()] == ["7c487ee5dbed772997a863b4768a14f4.safetensors"]
