"""The query decoder: on every tower, trained without touching it, resumed alike, stored, refused by another model."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from plugin_config.errors import LearningError
from tests.dense_world import builtin, pixels_of, tiny_segmenter
from tests.models import noise
from worker.lab.things_data import things_set
from worker.lab.train_query_decoder import CHECKPOINT, DECODER, train_in_folder
from worker.learning.proposals.decoder_files import load_query_decoder, save_query_decoder
from worker.learning.proposals.entering import propose
from worker.learning.proposals.matching import LossWeights, TrueMasks, query_losses
from worker.learning.proposals.proposals import SegmentedImage
from worker.learning.proposals.query_decoder import QueryDecoder, QueryDecoderConfig, _outside, frozen_maps, waves
from worker.learning.proposals.query_training import (
    QueryDecoderTrainer,
    QueryTrainingConfig,
    query_decoder_trainer,
    train_query_decoder,
)
from worker.segmentation.encoders.towers import TowerConfig
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ("circle", "grass")
FORM = QueryDecoderConfig(TowerConfig(), 64, queries=5, width=16, mask_width=8, layers=2, heads=2, feedforward=16)
SHORT = QueryTrainingConfig(steps=6, batch=2, warmup=1)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("vit"), layers=2)


def samples(count: int = 3) -> list[SegmentedImage]:
    """Bright squares on noise: the square is a circle, the rest grass."""
    found = []
    for k in range(count):
        image, segments = noise(64, 80, seed=k) // 3, np.zeros((64, 80), dtype=np.int16)
        segments[8 + 4 * k : 40, 16:48] = 1
        image[segments == 1] = 220
        found.append(SegmentedImage(image, segments, (1, 0)))
    return found


def decoder_on(segmenter: Segmenter, form: QueryDecoderConfig = FORM) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(form, segmenter.towers.get(form.tower), LABELS)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_it_reads_any_tower(kind: str, vit: Segmenter) -> None:
    segmenter = vit if kind == "vit" else builtin()
    form = FORM if kind == "vit" else replace(FORM, tower=TowerConfig(hooks=(1, 2), dilated=True))
    decoder = decoder_on(segmenter, form).eval()
    pixels = pixels_of(decoder.tower, side=4 if kind == "vit" else 8)
    with torch.no_grad():
        maps = decoder.tower(pixels)
        found = decoder(maps)
        grid = decoder.grid_of(maps)
    finer = (8, 10) if kind == "vit" else (16, 18)  # twice the patches; the first stage
    assert (found.masks.shape, grid) == ((2, 5, *finer), finer)
    assert (found.vectors.shape, found.logits.shape) == ((2, 5, 16), (2, 5, 3))
    torch.testing.assert_close(found.vectors.mean(dim=2), torch.zeros(2, 5), atol=1e-5, rtol=0)  # normalised
    torch.testing.assert_close(found.logits, decoder.classify(found.vectors))
    alone = decoder(decoder.tower(pixels[1:]))
    torch.testing.assert_close(alone.masks[0], found.masks[1], atol=1e-4, rtol=1e-4)


def test_a_query_looks_within_its_mask_or_everywhere() -> None:
    masks = torch.full((1, 2, 4, 4), -1.0)
    masks[0, 0, :2] = 1.0
    outside = _outside(masks, (2, 2))
    assert outside.tolist() == [[[False, False, True, True], [False] * 4]]


def test_what_lies_outside_a_mask_changes_nothing(vit: Segmenter) -> None:
    layer = decoder_on(vit).layers[0].eval()
    generator = torch.Generator().manual_seed(0)
    queries, asked, cells = (torch.randn(*shape, generator=generator) for shape in ((1, 2, 16), (2, 16), (1, 6, 16)))
    outside = torch.tensor([[[False] * 3 + [True] * 3] * 2])
    changed = torch.cat((cells[:, :3], torch.randn(1, 3, 16, generator=generator)), dim=1)
    places = waves((2, 3), 16, torch.device("cpu"))
    with torch.no_grad():
        one, other = (layer(queries, asked, values, places, outside) for values in (cells, changed))
        free = layer(queries, asked, changed, places, torch.zeros_like(outside))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, free)


def test_waves_tell_all_cells_apart() -> None:
    found = waves((5, 7), 16, torch.device("cpu"))
    assert found.shape == (35, 16)
    assert float(torch.pdist(found).min()) > 0.1


def test_the_loss_reaches_the_whole_decoder_and_nothing_of_the_tower(vit: Segmenter) -> None:
    decoder = decoder_on(vit)
    before = decoder.tower.fingerprint
    maps = frozen_maps(decoder.tower, torch.from_numpy(samples(1)[0].image).permute(2, 0, 1)[None])
    truth = TrueMasks.of(samples(1)[0], decoder.grid_of(maps))
    query_losses(decoder.predictions(maps), [truth], LossWeights())["total"].backward()  # type: ignore[no-untyped-call]
    without = [name for name, one in decoder.named_parameters() if one.grad is None or not one.grad.any()]
    assert without == []
    assert all(one.grad is None for one in decoder.tower.module.parameters())
    assert decoder.tower.fingerprint == before
    assert not any(name.startswith("tower") for name in decoder.state_dict())


def test_training_learns_and_leaves_the_tower_alone(vit: Segmenter) -> None:
    losses: list[float] = []
    config = replace(SHORT, steps=40, rate=3e-3)
    decoder = train_query_decoder(samples(), LABELS, vit, config, lambda _done, _steps, loss: losses.append(loss),
                                  form=FORM)  # fmt: skip
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    found = propose(samples()[0].image, decoder, vit)
    assert (len(found.proposals), tuple(found.logits.shape)) == (5, (5, 3))


def test_a_training_that_was_broken_off_ends_alike(vit: Segmenter) -> None:
    def trainer(seed: int = 0) -> QueryDecoderTrainer:
        return query_decoder_trainer(samples(), LABELS, vit, replace(SHORT, seed=seed), form=FORM)

    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(4):
        whole.step()
    first.step()
    first.step()
    second.restore(first.state())
    second.step()
    second.step()
    for one, other in zip(whole.decoder.parameters(), second.decoder.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(LearningError, match="was begun with seed 0, not 1"):
        trainer(1).restore(first.state())


def test_images_of_several_sizes_are_learned_together(vit: Segmenter) -> None:
    wide = SegmentedImage(noise(64, 112), np.zeros((64, 112), dtype=np.int16), (1,))
    trainer = query_decoder_trainer([*samples(1), wide], LABELS, vit, SHORT, form=FORM)
    assert np.isfinite(trainer.step()["total"])


def test_a_loss_that_is_no_number_changes_no_weight(vit: Segmenter) -> None:
    trainer = query_decoder_trainer(samples(), LABELS, vit, SHORT, form=FORM)
    with torch.no_grad():
        trainer.decoder.classify.bias.fill_(torch.nan)
    before = trainer.decoder.queries.detach().clone()
    with pytest.raises(LearningError, match="the loss of step 1 is no number"):
        trainer.step()
    assert torch.equal(trainer.decoder.queries, before)


def test_nothing_to_learn_is_told(vit: Segmenter) -> None:
    with pytest.raises(LearningError, match="no seen label is left"):
        query_decoder_trainer(samples(), (), vit, SHORT, form=FORM)
    empty = [replace(one, segments=np.full_like(one.segments, -2), classes=()) for one in samples()]
    with pytest.raises(LearningError, match="no image shows a segment"):
        query_decoder_trainer(empty, LABELS, vit, SHORT, form=FORM)


def test_a_stored_decoder_proposes_the_same(vit: Segmenter, tmp_path: Path) -> None:
    decoder, path = decoder_on(vit).eval(), tmp_path / "some" / "decoder.safetensors"
    save_query_decoder(path, decoder, vit, {"steps": 3})
    again = load_query_decoder(path, vit)
    assert (again.config, again.labels) == (FORM, LABELS)
    image = samples()[0].image
    one, other = (propose(image, found, vit) for found in (decoder, again))
    torch.testing.assert_close(one.proposals.vectors, other.proposals.vectors, atol=0.02, rtol=0.02)  # half precision


def test_a_decoder_of_another_encoder_is_refused(vit: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    save_query_decoder(path, decoder_on(vit), vit)
    with pytest.raises(LearningError, match=r"on another encoder \(local-dir:.*\) than the one loaded \(builtin\)"):
        load_query_decoder(path, builtin())
    form = replace(FORM, tower=TowerConfig(hooks=(1, 2), dilated=True))
    save_query_decoder(path, decoder_on(builtin(), form), builtin())
    with pytest.raises(LearningError, match=r"trained on another encoder \(builtin\)"):
        load_query_decoder(path, vit)


def test_files_that_are_no_decoder(vit: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    with pytest.raises(LearningError, match="cannot be read"):
        load_query_decoder(path, vit)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(LearningError, match="cannot be read"):
        load_query_decoder(path, vit)
    decoder = decoder_on(vit)
    with torch.no_grad():
        decoder.queries.fill_(torch.nan)
    save_query_decoder(path, decoder, vit)
    with pytest.raises(LearningError, match="holds no numbers"):
        load_query_decoder(path, vit)
    save_file({"queries": torch.zeros(2)}, path)
    with pytest.raises(LearningError, match="is none"):
        load_query_decoder(path, vit)


def of_other_weights() -> Segmenter:
    """The builtin, whose encoder says that its weights are others."""
    other = copy(builtin())
    other.encoder = copy(other.encoder)
    other.encoder.fingerprint = "another"
    return other


def test_the_command_trains_stops_and_goes_on(tmp_path: Path) -> None:
    folder, data = tmp_path / "decoder", things_set(scenes=2)
    config = QueryTrainingConfig(steps=2, batch=1, flips=False)
    stopped = train_in_folder(folder, builtin(), data, config, seed=0, minutes=0)
    assert (stopped["steps"], stopped["loss"], stopped["labels"]) == (0, None, 34)
    with pytest.raises(LearningError, match="holds a training already"):
        train_in_folder(folder, builtin(), data, config, seed=0)
    with pytest.raises(LearningError, match="was begun with batch 1, not 2"):
        train_in_folder(folder, builtin(), data, replace(config, batch=2), seed=0, resume=True)
    with pytest.raises(LearningError, match="was begun with encoder"):
        train_in_folder(folder, of_other_weights(), data, config, seed=0, resume=True)
    done = train_in_folder(folder, builtin(), data, config, seed=0, resume=True)
    assert (done["steps"], done["parameters"]) == (2, 1080803)
    decoder = load_query_decoder(folder / DECODER, builtin())
    found = propose(data.test[0].image, decoder, builtin())
    assert found.proposals.masks.shape == (24, 48, 64)
    assert found.logits.shape == (24, 35)
    (folder / CHECKPOINT).write_bytes(b"half of it")
    with pytest.raises(LearningError, match="is damaged"):
        train_in_folder(folder, builtin(), data, config, seed=0, resume=True)
