"""Training the builtin model: the loss knows true from false, a killed run goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plugin_config.errors import ModelUnavailable
from worker.lab.drawn_world.batches import draw_batch
from worker.lab.drawn_world.export import export
from worker.lab.drawn_world.objective import attribute_loss, dense_features, dense_loss, pair_truth, see, truth_of
from worker.lab.drawn_world.phrases import concept_codes
from worker.lab.drawn_world.train import (
    TOWERS,
    TrainingConfig,
    TrainingState,
    load,
    new_state,
    rate_at,
    save,
    train_step,
)
from worker.lab.drawn_world.world import parse_label
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.token_towers import token_tower
from worker.segmentation.encoders.towers import TowerConfig, Towers


def _steps(config: TrainingConfig, state: TrainingState, count: int) -> TrainingState:
    for _ in range(count):
        batch = draw_batch(config.seed, state.step, progress=0.0, patches=config.patches, compositions=6)
        train_step(config, state, batch)
    return state


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("tower", [*TOWERS])
def test_a_killed_run_resumes_as_if_it_had_never_stopped(tower: str, tmp_path: Path) -> None:
    config = TrainingConfig(tmp_path, steps=4, patches=128, tower=tower)
    straight = _steps(config, new_state(config), 4)
    killed = _steps(config, new_state(config), 2)
    save(killed, tmp_path / "checkpoint.pt", tower=tower)
    del killed
    resumed = _steps(config, load(config, tmp_path / "checkpoint.pt"), 2)
    for side in ("model", "average"):
        expected, found = getattr(straight, side).state_dict(), getattr(resumed, side).state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not list(tmp_path.glob("*.aside"))


def test_resuming_from_nothing_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="without --resume"):
        load(TrainingConfig(tmp_path), tmp_path / "checkpoint.pt")


@pytest.mark.usefixtures("one_thread")
def test_a_vit_is_trained_on_what_the_service_reads_and_exported_for_it(tmp_path: Path) -> None:
    config = TrainingConfig(tmp_path, steps=2, patches=128, tower="vit")
    state = _steps(config, new_state(config), 1)
    pixels = torch.from_numpy(draw_batch(1, 0, progress=0.0, patches=128).pixels)
    pixels = torch.nn.functional.interpolate(pixels, size=(96, 96))
    seen = see(state.average.eval(), pixels, whole=True)
    assert seen.whole is not None
    with torch.no_grad():
        torch.testing.assert_close(seen.patches, dense_features(state.average, pixels))
        torch.testing.assert_close(seen.whole, state.average.encode_image(pixels, normalize=True))
    save(state, tmp_path / "checkpoint.pt", tower="vit")
    with pytest.raises(ModelUnavailable, match=r"is of a vit, not a resnet\. Give --tower vit"):
        load(TrainingConfig(tmp_path), tmp_path / "checkpoint.pt")
    path = export(tmp_path / "checkpoint.pt", tmp_path / "vit")
    assert path.stat().st_size <= 4_000_000
    encoder = Encoder(f"local-dir:{tmp_path / 'vit'}", device="cpu", precision="fp32")
    assert (encoder.patch, encoder.native_size, encoder.readout.name) == (8, 96, "value")
    assert encoder.unknown_words("a red wug") == ["wug"]
    assert token_tower(Towers(encoder).get(TowerConfig())).depth == 5


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again = (draw_batch(1, 7, progress=0.5, patches=512) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.tokens, again.tokens)


def test_true_pairs_are_those_whose_words_all_fit() -> None:
    labels = ["red shape", "striped shape", "red striped circle", "blue circle", "grass", "background", "object"]
    concepts = torch.from_numpy(concept_codes([parse_label(label) for label in labels]))
    attributes = torch.full((1, 8, 3), -2)
    attributes[0, 0] = torch.tensor([0, 1, 0])  # a red striped circle
    attributes[0, 1] = torch.tensor([-2, 1, 3])  # a striped star of no named hue
    present = torch.tensor([[True, True, *[False] * 6]])
    match = pair_truth(attributes, present, concepts)[0]
    assert match[0].tolist() == [True, True, True, False, False, False, True]
    assert match[1].tolist() == [False, True, False, False, False, False, True]
    assert not match[2:8].any()
    assert match[8].tolist() == [False] * 4 + [True, True, False]  # grass
    weight = truth_of(attributes, present, concepts).weight[0]
    assert weight[0, 3] > weight[2, 3]  # "blue circle" shares a word with the red circle: a hard negative
    assert weight[0, 2] > weight[0, 0]  # the rarer the true text, the more it counts


def test_the_losses_fall_when_the_logits_tell_the_truth() -> None:
    batch = draw_batch(1, 3, progress=0.0, patches=256)
    shares, attributes = torch.from_numpy(batch.shares), torch.from_numpy(batch.attributes)
    truth = truth_of(attributes, torch.from_numpy(batch.present), torch.from_numpy(batch.concepts))
    right = 12 * (shares @ truth.match) - 6
    assert dense_loss(right, shares, truth) < 0.2 < dense_loss(-right, shares, truth)
    assert attribute_loss(right, shares, attributes) < 0.1 < attribute_loss(-right, shares, attributes)


def test_the_schedule_warms_up_and_fades_out() -> None:
    config = TrainingConfig(Path(), steps=1000)
    rates = [rate_at(config, step) for step in (0, 150, 999)]
    assert rates[0] < 0.01 * rates[1]
    assert rates[1] == pytest.approx(config.learning_rate)
    assert rates[2] < 0.03 * rates[1]
