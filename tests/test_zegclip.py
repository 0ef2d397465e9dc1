"""ZegCLIP's network and loss: labels that never see each other, prompts in every block, ignored pixels that count for
nothing, and pseudo-labels that see no truth.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from tests.dense_world import TIMM, builtin, output_of, pixels_of, squares, tiny_segmenter, unit_rows
from worker.lab.zegclip_count import count_zegclip
from worker.learning.recipes.dense.batches import HIDDEN
from worker.learning.recipes.dense.networks import DenseOutput
from worker.learning.recipes.dense.zegclip import CLASS_TOKEN, ZegclipNetwork
from worker.learning.recipes.dense.zegclip_loss import ZegclipLoss, dice_loss, focal_loss
from worker.learning.recipes.dense.zegclip_presets import (
    ZEGCLIP_PRESETS,
    ZegclipPreset,
    small_zegclip,
    zegclip_preset_from_json,
)
from worker.segmentation.encoders.readouts import READOUTS
from worker.segmentation.encoders.token_towers import NativeTokens, bilinear_positions, token_tower
from worker.segmentation.encoders.towers import Tower, TowerConfig
from worker.segmentation.encoders.vit import token_features
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, SIZE = 16, (32, 48)
PLAIN = ZegclipPreset(TowerConfig(), prompts=3)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("vit"))


def network_of(vit: Segmenter, tower: Tower | None = None, **changes: Any) -> ZegclipNetwork:
    preset = replace(PLAIN, **changes)
    torch.manual_seed(0)
    return ZegclipNetwork(preset, tower or vit.towers.get(preset.tower), WIDTH)


@pytest.mark.parametrize("parts", [{}, {"prompts": 0}, {"descriptor": False}, {"counting": True}], ids=str)
def test_a_label_more_or_another_order_changes_no_other_mask(vit: Segmenter, parts: dict[str, Any]) -> None:
    network = network_of(vit, **parts).eval()
    pixels, labels = pixels_of(network.tower), unit_rows(5, WIDTH)
    with torch.no_grad():
        features = network.encode(pixels)
        logits = network.decode(features, labels).logits
        order = torch.tensor([4, 2, 0, 1, 3])
        torch.testing.assert_close(network.decode(features, labels[order]).logits, logits[:, order], rtol=0, atol=1e-5)
        torch.testing.assert_close(network.decode(features, labels[:2]).logits, logits[:, :2], rtol=0, atol=1e-5)
    assert logits.shape == (2, 5, 4, 5), "a rectangular picture, two of them"
    assert bool((logits[:, 0] - logits[:, 1]).abs().max() > 0)


@pytest.mark.parametrize("parts", [{}, {"descriptor": False}, {"layers": 2}, {"heads": 4}], ids=str)
def test_an_aligned_start_is_what_the_model_says_untrained(vit: Segmenter, parts: dict[str, Any]) -> None:
    network = network_of(vit, **parts).eval()
    labels = unit_rows(6, WIDTH)
    network.start_as_cosines(scale=12.0, bias=-3.0)
    with torch.no_grad():
        features = network.encode(pixels_of(network.tower))
        found = network.decode(features, labels).logits
    patches = F.normalize(features.embedding, dim=1)
    centred = F.normalize(labels - labels.mean(dim=1, keepdim=True), dim=1)  # the norms of the decoder do that
    wanted = 12 * torch.einsum("td,bdhw->bthw", centred, patches) - 3
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.4)
    assert float(wanted.std()) > 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2)], ids=str)
def test_any_grid_is_taken(vit: Segmenter, shape: tuple[int, int]) -> None:
    network = network_of(vit).eval()
    pixels = torch.zeros(1, 3, *(side * network.tower.multiple for side in shape))
    assert network(pixels, unit_rows(2, WIDTH)).logits.shape == (1, 2, *shape)


def test_without_prompts_the_tokens_are_those_of_the_tower(vit: Segmenter) -> None:
    network = network_of(vit, prompts=0).eval()
    pixels = pixels_of(network.tower)
    standard = token_features(network.tower.module, pixels, readout=READOUTS["standard"])
    found = network.encode(pixels)
    torch.testing.assert_close(found.maps[CLASS_TOKEN], standard[:, 0])
    torch.testing.assert_close(found.embedding.flatten(2).transpose(1, 2), standard[:, 1:])


def test_prompts_of_every_block_reach_the_class_token_and_the_patches(vit: Segmenter) -> None:
    network = network_of(vit).eval()
    prompts = network.prompts
    assert prompts is not None
    assert prompts.tokens.shape == (2, 3, 32), "blocks, prompts, width"
    pixels = pixels_of(network.tower)
    before = network.encode(pixels)
    for block in range(2):
        changed = network_of(vit).eval()
        assert changed.prompts is not None
        with torch.no_grad():
            changed.prompts.tokens[block] += 1
        after = changed.encode(pixels)
        assert not torch.allclose(before.maps[CLASS_TOKEN], after.maps[CLASS_TOKEN]), block
        assert not torch.allclose(before.embedding, after.embedding), block


def test_what_a_block_makes_of_its_prompts_is_thrown_away(vit: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block sees one class token, the prompts and the patches: their number never grows."""
    network, seen = network_of(vit).eval(), []
    plain = NativeTokens.block

    def spied(self: NativeTokens, number: int, tokens: Tensor) -> Tensor:
        seen.append(tokens.shape[1])
        return plain(self, number, tokens)

    monkeypatch.setattr(NativeTokens, "block", spied)
    network.encode(pixels_of(network.tower))
    assert seen == [1 + 3 + 20, 1 + 3 + 20]


def test_the_query_of_a_label_is_its_relation_to_the_image_and_itself(
    vit: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, asked = network_of(vit).eval(), []

    def spied(queries: Tensor) -> Tensor:
        asked.append(queries)
        return queries[..., :WIDTH]

    monkeypatch.setattr(network.query, "forward", spied)
    pixels, labels = pixels_of(network.tower), unit_rows(3, WIDTH)
    image = F.normalize(network.encode(pixels).maps[CLASS_TOKEN], dim=1)
    network(pixels, labels)
    assert asked[0].shape == (2, 3, 2 * WIDTH)
    torch.testing.assert_close(asked[0][1, 2, :WIDTH], labels[2] * image[1])
    torch.testing.assert_close(asked[0][1, 2, WIDTH:], labels[2])
    torch.testing.assert_close(asked[0][..., :WIDTH].sum(dim=2), image @ labels.T)  # CLIP's own score


def test_a_mask_is_the_mean_over_the_heads_of_the_last_scores_before_the_softmax(vit: Segmenter) -> None:
    network = network_of(vit, layers=1).eval()
    pixels, labels = pixels_of(network.tower), unit_rows(3, WIDTH)
    features = network.encode(pixels)
    image = F.normalize(features.maps[CLASS_TOKEN], dim=1)
    layer: Any = network.decoder.layers[0]
    query = layer.query(network.query(torch.cat([labels * image[0], labels], dim=1)))  # (T, D)
    key = layer.key(F.normalize(features.embedding[0], dim=0).flatten(1).T)  # (N, D)
    heads = [query[:, k : k + 2] @ key[:, k : k + 2].T / 2**0.5 for k in range(0, WIDTH, 2)]
    found = network.decode(features, labels).logits[0].flatten(1)
    torch.testing.assert_close(found, torch.stack(heads).mean(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["prompts", "no prompts", "trained tower"])
def test_only_prompts_norm_and_decoder_get_a_gradient(vit: Segmenter, kind: str) -> None:
    changes: dict[str, Any] = {"prompts": {}, "no prompts": {"prompts": 0}, "trained tower": {"trains_tower": True}}
    network = network_of(vit, **changes[kind])
    pixels = pixels_of(network.tower)
    output = network.train()(pixels, unit_rows(3, WIDTH))
    loss = ZegclipLoss()(output, squares((pixels.shape[2], pixels.shape[3]), count=2))["total"]
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, one in network.named_parameters() if one.grad is None or not bool(one.grad.any())]
    # A bias of keys shifts all scores of a query alike: the softmax of an inner layer does not see it.
    assert [name for name in without if not name.endswith("key.bias")] == []
    kinds = {name.split(".")[0] for name, _ in network.named_parameters()}
    expected = {"prompts": {"prompts"}, "no prompts": set(), "trained tower": {"prompts", "tower_module"}}[kind]
    assert kinds == {"query", "decoder"} | expected
    assert all(one.grad is None for one in vit.encoder.visual.parameters())
    if kind != "trained tower":
        assert not any(name.startswith("tower") for name in network.state_dict())


def test_the_dead_weights_of_the_paper_are_held_and_change_nothing(vit: Segmenter) -> None:
    live, counting = network_of(vit).eval(), network_of(vit, counting=True).eval()
    found = counting.load_state_dict(live.state_dict(), strict=False)
    assert found.unexpected_keys == []
    dead = {name.split(".")[3] for name in found.missing_keys if ".2." in name}
    assert dead == {"between_labels", "between_norm", "value", "out", "widen", "narrow", "norm", "last_norm"}
    assert all(".2." in name or ".between_" in name for name in found.missing_keys)
    pixels, labels = pixels_of(live.tower), unit_rows(3, WIDTH)
    torch.testing.assert_close(counting(pixels, labels).logits, live(pixels, labels).logits)
    loss = ZegclipLoss()(counting.train()(pixels, labels), squares((64, 80), count=2))["total"]
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name for name, one in counting.named_parameters() if one.grad is not None}
    assert gradients.isdisjoint(found.missing_keys)


@pytest.mark.parametrize(
    ("preset", "dead", "live", "gmacs"),
    [("voc", 13_821_184, 8_039_168, 110.5), ("coco", 14_650_624, 8_868_608, 124.2)],
)
def test_the_networks_of_the_paper_are_as_large_as_the_paper_says(
    preset: str, dead: int, live: int, gmacs: float
) -> None:
    found = count_zegclip(preset)
    assert (found.parameters, found.live_parameters) == (dead, live)
    assert found.gmacs == pytest.approx(gmacs, rel=0.01)


def test_a_timm_vit_is_read_through_a_trained_projection(vit: Segmenter) -> None:
    network = network_of(vit, vit.towers.get(TIMM)).eval()
    assert network.project is not None
    pixels = pixels_of(network.tower)
    assert network(pixels, unit_rows(3, WIDTH)).logits.shape == (2, 3, 4, 5)
    plain = network_of(vit, vit.towers.get(TIMM), prompts=0).eval()
    module: Any = plain.tower.module
    wanted = plain.project(module.forward_features(pixels)[:, 0])  # type: ignore[misc]
    torch.testing.assert_close(plain.encode(pixels).maps[CLASS_TOKEN], wanted)


def test_a_tower_without_a_class_token_is_refused(vit: Segmenter) -> None:
    convolutional = builtin().towers.get(TowerConfig())
    with pytest.raises(ModelUnavailable, match=r"no plain ViT with a class token. Choose a model"):
        network_of(vit, convolutional)
    averaged = vit.towers.get(TowerConfig()).trainable_copy()
    averaged.module.pool_type = "avg"
    with pytest.raises(ModelUnavailable, match="no plain ViT with a class token"):
        token_tower(averaged)


def test_a_vit_of_timm_inside_a_model_of_open_clip_is_refused_with_what_to_name_instead(tmp_path: Path) -> None:
    changes = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    wrapped = tiny_segmenter(tmp_path, **changes).towers.get(TowerConfig())
    with pytest.raises(ModelUnavailable, match=r"a ViT of timm inside a model of open_clip .* by --tower NAME"):
        token_tower(wrapped)


def test_the_positions_and_the_class_token_of_the_released_weights(vit: Segmenter) -> None:
    tower = vit.towers.get(TowerConfig())
    visual: Any = tower.module
    pixels = pixels_of(tower)
    tokens, grid = NativeTokens(visual, grid_as_released=8).start(pixels)
    assert (grid, tokens.shape[1]) == ((4, 5), 21)
    positions = bilinear_positions(bilinear_positions(visual.positional_embedding, (8, 8)), (4, 5))
    first = visual.class_embedding * 2 + positions[0]
    torch.testing.assert_close(tokens[0, 0], visual.ln_pre(first))
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2) + positions[1:]
    torch.testing.assert_close(tokens[:, 1:], visual.ln_pre(patches))


def test_presets_are_stored_and_read_again(vit: Segmenter) -> None:
    assert [ZEGCLIP_PRESETS[name].prompts for name in ("voc", "coco")] == [10, 100]
    for preset in (*ZEGCLIP_PRESETS.values(), small_zegclip(vit.encoder, "test_vit")):
        assert zegclip_preset_from_json(asdict(preset)) == preset


def drawn_output(labels: int = 3, seed: int = 0) -> DenseOutput:
    logits = torch.randn(1, labels, *SIZE, generator=torch.Generator().manual_seed(seed))
    return output_of(logits.requires_grad_())


def gradient(loss: ZegclipLoss, truth: Tensor, term: str = "total", labels: int = 3) -> Tensor:
    output = drawn_output(labels)
    loss(output, truth)[term].backward()  # type: ignore[no-untyped-call]
    assert output.logits.grad is not None
    return output.logits.grad


def test_what_the_terms_are() -> None:
    truth = squares(SIZE).masked_fill(squares(SIZE) == VOID, 2)
    output = drawn_output()
    terms = ZegclipLoss()(output, truth)
    logits = output.logits.detach()
    p = logits.sigmoid()
    y = F.one_hot(truth, 3).permute(0, 3, 1, 2).float()
    focal = -(0.25 * y * (1 - p) ** 2 * p.log() + 0.75 * (1 - y) * p**2 * (1 - p).log())
    torch.testing.assert_close(terms["focal"].detach(), focal.mean(dim=(2, 3)).sum() / 3)
    dice = 1 - (2 * (p * y).sum(dim=(2, 3)) + 1) / (p.sum(dim=(2, 3)) + y.sum(dim=(2, 3)) + 1)
    torch.testing.assert_close(terms["dice"].detach(), dice.sum() / 3)
    torch.testing.assert_close(terms["total"], 100 * terms["focal"] + terms["dice"])


def test_little_is_held_for_each_label_and_pixel() -> None:
    truth = torch.cat([squares(SIZE, count=3), torch.full((1, *SIZE), VOID)])
    logits = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    held: dict[int, int] = {}

    def hold(one: Tensor) -> Tensor:
        held[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda one: one):
        terms = ZegclipLoss()(output_of(logits), truth)
    assert sum(held.values()) < 2 * 4 * logits.numel(), "bytes: the logits, the truth, and no more"
    terms["total"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    p, judged = logits.detach().requires_grad_(), truth != VOID
    y = torch.stack([truth == row for row in range(3)], dim=1).float()
    masks = y.flatten(2).amax(dim=2).sum()
    whole = 100 * focal_loss(p, y, judged) / masks + dice_loss(p, y, judged) / masks
    torch.testing.assert_close(terms["total"], whole)
    whole.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits.grad, p.grad)


def test_a_label_that_no_pixel_has_is_a_negative_of_the_focal_term_alone() -> None:
    truth = torch.full((1, *SIZE), 1)
    assert bool(gradient(ZegclipLoss(), truth, "focal")[:, 0].any())
    assert not bool(gradient(ZegclipLoss(), truth, "dice")[:, 0].any())


def test_ignored_pixels_are_punished_as_released_and_not_here() -> None:
    truth = squares(SIZE)
    ignored = truth == VOID
    ours, released = gradient(ZegclipLoss(), truth), gradient(ZegclipLoss(as_released=True), truth)
    assert not bool(ours.permute(0, 2, 3, 1)[ignored].any())
    assert bool((gradient(ZegclipLoss(as_released=True), truth, "focal").permute(0, 2, 3, 1)[ignored] > 0).all())
    assert bool(ours.any())
    assert bool(released.any())


def test_where_nothing_is_ignored_both_are_the_same() -> None:
    truth = squares(SIZE).clamp_min(0)
    torch.testing.assert_close(gradient(ZegclipLoss(), truth), gradient(ZegclipLoss(as_released=True), truth))


def test_nothing_known_is_no_loss() -> None:
    terms = ZegclipLoss()(drawn_output(), torch.full((1, *SIZE), VOID))
    assert {name: float(value.detach()) for name, value in terms.items()} == dict.fromkeys(terms, 0.0)


def test_exclusive_labels_share_one_softmax() -> None:
    truth, output = squares(SIZE), drawn_output()
    known = truth != VOID
    wanted = F.cross_entropy(output.logits.permute(0, 2, 3, 1)[known], truth[known])
    torch.testing.assert_close(ZegclipLoss(exclusive=True)(output, truth)["total"], wanted)


def test_pseudo_labels_go_to_hidden_pixels_and_are_the_networks_own() -> None:
    truth = squares(SIZE)
    truth[:, :, 30:] = HIDDEN
    truth[:, :, 44:] = VOID  # beyond the image
    loss = ZegclipLoss(unseen=(3, 4), pseudo=True)
    output = drawn_output(6)
    hidden = truth == HIDDEN
    labelled = truth.clone()
    labelled[hidden] = 3 + output.logits.detach()[:, 3:5].argmax(dim=1)[hidden]
    wanted = ZegclipLoss()(output, labelled)["total"]
    torch.testing.assert_close(loss(output, truth)["total"], wanted)
    assert not bool(gradient(loss, truth, labels=6).permute(0, 2, 3, 1)[truth == VOID].any())


def test_before_them_unseen_labels_are_not_there() -> None:
    truth = squares(SIZE)
    output = drawn_output(5)
    truth = torch.where(truth == 2, 4, truth)  # the background is the last row
    found = ZegclipLoss(unseen=(2, 3))(output, truth)["total"]
    kept = output_of(output.logits[:, [0, 1, 4]])
    torch.testing.assert_close(found, ZegclipLoss()(kept, torch.where(truth == 4, 2, truth))["total"])
    assert not bool(gradient(ZegclipLoss(unseen=(2, 3)), truth, labels=5)[:, 2:4].any())
