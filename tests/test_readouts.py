"""Readouts are data: each one's special case is another one, or the model as trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_config.errors import ModelUnavailable
from tests.models import TINY
from worker.segmentation.encoders import readouts
from worker.segmentation.encoders.readouts import (
    READOUTS,
    Proxy,
    Readout,
    Source,
    attend,
    choose_readout,
    gaussian_bias,
    procrustes_align,
    proxy_attention,
)
from worker.segmentation.encoders.tiling import Tiling, cut_grid
from worker.segmentation.encoders.vit import token_features

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = (3, 5)
VALUE, STANDARD, PROXY = READOUTS["value"], READOUTS["standard"], READOUTS["proxy"]
KEYS_AND_KEYS = Readout("k-k", "a part of SCLIP", (("k", "k"),))
ALL: frozenset[Source] = frozenset({"q", "k", "v"})


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sources(*, seed: int = 0, heads: int = 2, width: int = 8) -> dict[Source, Tensor]:
    """Queries, keys and values of a class token and 15 patches, two pictures."""
    q, k, v = (drawn(2, heads, 1 + GRID[0] * GRID[1], width, seed=seed + number) for number in range(3))
    return {"q": q, "k": k, "v": v}


@pytest.fixture(scope="module")
def visual() -> Any:
    """A small native ViT whose last block has weights that matter."""
    torch.manual_seed(0)
    tower = open_clip.CLIP(**TINY).visual.eval().requires_grad_(False)
    for module in tower.transformer.resblocks[-1].modules():
        if isinstance(module, nn.Linear | nn.MultiheadAttention):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
    return tower


@pytest.fixture
def pixels() -> Tensor:
    return drawn(2, 3, 64, 64, seed=3)


@torch.inference_mode()
def test_as_trained_is_what_encode_image_gives_and_the_forward_of_every_token(visual: Any, pixels: Tensor) -> None:
    found = token_features(visual, pixels, readout=STANDARD)
    torch.testing.assert_close(found[:, 0], visual(pixels), rtol=0, atol=1e-5)
    whole = visual.ln_post(visual.transformer(visual._embeds(pixels))) @ visual.proj
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_value_path_is_the_blocks_projections_alone(visual: Any, pixels: Tensor) -> None:
    block = visual.transformer.resblocks[-1]
    tokens = block.ln_1(visual.transformer.resblocks[0](visual._embeds(pixels)))
    weight, bias = block.attn.in_proj_weight[64:], block.attn.in_proj_bias[64:]
    wanted = visual.ln_post(block.attn.out_proj(F.linear(tokens, weight, bias))) @ visual.proj
    torch.testing.assert_close(token_features(visual, pixels), wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_every_readout_reads_other_features(visual: Any, pixels: Tensor) -> None:
    """None of them is another one in disguise."""
    proxies = drawn(2, 4, 4, 6, seed=5)
    found = {
        name: token_features(visual, pixels, readout=readout, proxies=proxies)[:, 1:]
        for name, readout in READOUTS.items()
        if not readout.stitched
    }
    for name, features in found.items():
        assert features.shape == (2, 16, 16)
        assert bool(features.isfinite().all())
        for other in set(found) - {name}:
            assert not torch.allclose(features, found[other], atol=1e-3), (name, other)


ACROSS = [name for name, readout in READOUTS.items() if readout.stitched]
WINDOWS = Tiling((7, 8), (4, 5), ((0, 0), (0, 3), (3, 0), (3, 3)))


@pytest.mark.parametrize("name", ACROSS)
@torch.inference_mode()
def test_stitched_in_one_window_is_the_readout_itself(name: str) -> None:
    readout, proxies = READOUTS[name], drawn(1, *GRID, 6, seed=5)
    one: dict[Source, Tensor] = {source: values[:1] for source, values in sources().items()}
    found = attend(readout, one, GRID, scale=0.4, proxies=proxies, tiling=Tiling.single_pass(GRID))
    plain = attend(READOUTS[name.removesuffix("-stitched")], one, GRID, scale=0.4, proxies=proxies)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ACROSS)
@torch.inference_mode()
def test_stitched_windows_attend_as_the_whole_image_would(name: str) -> None:
    """Where what a patch says does not depend on the window, no window was ever cut."""
    order: tuple[Source, ...] = ("q", "k", "v")
    whole = {source: drawn(1, 2, 1 + 7 * 8, 8, seed=number) for number, source in enumerate(order)}
    proxies = drawn(1, 7, 8, 6, seed=5)
    cut: dict[Source, Tensor] = {}
    for source, values in whole.items():
        seen = cut_grid(values[0, :, 1:].transpose(0, 1).reshape(7, 8, 2, 8), WINDOWS).flatten(1, 2).transpose(1, 2)
        cut[source] = torch.cat([values[:, :, :1].expand(4, -1, -1, -1), seen], dim=2)
    wanted = attend(READOUTS[name], whole, (7, 8), scale=0.4, proxies=proxies)
    found = attend(
        READOUTS[name], cut, (4, 5), scale=0.4, proxies=cut_grid(proxies[0], WINDOWS), tiling=WINDOWS
    )
    seen = cut_grid(wanted[0, :, 1:].transpose(0, 1).reshape(7, 8, 2, 8), WINDOWS).flatten(1, 2).transpose(1, 2)
    torch.testing.assert_close(found[:, :, 1:], seen, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, :, :1], wanted[:, :, :1].expand(4, -1, -1, -1), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_attention_in_rows_is_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bounds the memory of a Gaussian over many patches changes nothing."""
    wanted = attend(READOUTS["naclip"], sources(), GRID, scale=0.4)
    for rows in (1, 5, 15):
        monkeypatch.setattr(readouts, "_MAX_COSINES", rows * 16)
        torch.testing.assert_close(attend(READOUTS["naclip"], sources(), GRID, scale=0.4), wanted, rtol=0, atol=1e-6)


def test_windows_with_rotary_positions_are_not_compared() -> None:
    offer = {"offered": ALL, "proxies": True, "stitches": False}
    with pytest.raises(ModelUnavailable, match=r"rotary.*Set ZEROMASK_READOUT=naclip\."):
        choose_readout("naclip-stitched", "EVA02-B-16", **offer)  # type: ignore[arg-type]
    assert choose_readout("proxy-stitched", "EVA02-B-16", **offer).stitched  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["clearclip", "naclip", "sclip"])
def test_a_correlation_without_end_of_orthogonal_tokens_is_the_value_path(name: str) -> None:
    """Where no two tokens are alike and the softmax is sharp, each sees itself, once per term."""
    unit = torch.eye(16).expand(2, 2, 16, 16)
    given: dict[Source, Tensor] = {"q": unit, "k": unit.flip(-1), "v": drawn(2, 2, 16, 16, seed=1)}
    readout = READOUTS[name]
    found = attend(replace(readout, sharpness=1e4), given, GRID, scale=0.25)
    torch.testing.assert_close(found, len(readout.terms) * given["v"])
    assert not torch.allclose(attend(readout, given, GRID, scale=0.25), found)


def test_a_neighbourhood_without_width_is_the_value_path() -> None:
    given = sources()
    found = attend(replace(READOUTS["naclip"], gaussian_sigma=1e-3, gaussian_height=1e4), given, GRID, scale=0.3)
    torch.testing.assert_close(found[:, :, 1:], given["v"][:, :, 1:])


def test_a_neighbourhood_without_height_is_the_correlation_alone() -> None:
    given = sources()
    found = attend(replace(READOUTS["naclip"], gaussian_height=0.0), given, GRID, scale=0.3)
    torch.testing.assert_close(found, attend(KEYS_AND_KEYS, given, GRID, scale=0.3))


def test_a_neighbourhood_is_the_papers_gaussian() -> None:
    """exp(-d^2 / 2 std^2) between patches, 1 at distance 0; nothing for the class token (NACLIP's released code)."""
    near = gaussian_bias(READOUTS["naclip"], GRID, 1, torch.zeros(1))
    assert not near[0].any()
    assert not near[:, 0].any()
    place = torch.tensor([[row, column] for row in range(3) for column in range(5)], dtype=torch.float32)
    torch.testing.assert_close(near[1:, 1:], torch.exp(-torch.cdist(place, place).square() / 50))


def test_two_terms_are_the_sum_of_each() -> None:
    given = sources()
    parts = (attend(Readout("a part", "", (term,)), given, GRID, scale=0.3) for term in READOUTS["sclip"].terms)
    torch.testing.assert_close(attend(READOUTS["sclip"], given, GRID, scale=0.3), sum(parts, torch.zeros(())))


def test_keys_that_are_the_queries_need_no_turning() -> None:
    """The best rotation is then the identity, and what is left is q-q."""
    given = sources()
    given["k"] = given["q"]
    centred = given["q"] - given["q"].mean(dim=2, keepdim=True)
    torch.testing.assert_close(procrustes_align(given["q"], given["q"]), centred, rtol=0, atol=1e-5)
    found = attend(READOUTS["pearl"], given, GRID, scale=0.3)
    torch.testing.assert_close(found, attend(READOUTS["clearclip"], given, GRID, scale=0.3), rtol=0, atol=1e-5)


def test_keys_that_are_turned_queries_are_turned_back() -> None:
    given = sources()
    rotation = torch.linalg.qr(drawn(2, 2, 8, 8, seed=9)).Q
    plain = attend(READOUTS["clearclip"], given, GRID, scale=0.3)
    given["k"] = given["q"] @ rotation + 5.0
    torch.testing.assert_close(attend(READOUTS["pearl"], given, GRID, scale=0.3), plain, rtol=0, atol=1e-4)


def test_a_proxy_to_which_no_two_patches_are_alike_is_the_value_path() -> None:
    given = sources()
    proxies = torch.eye(15).reshape(1, *GRID, 15).expand(2, -1, -1, -1)
    torch.testing.assert_close(attend(PROXY, given, GRID, scale=0.3, proxies=proxies), given["v"])


def test_a_proxy_to_which_halves_are_alike_averages_each_half() -> None:
    given = sources()
    half = F.one_hot(torch.tensor([0, 0, 1, 1, 1]).repeat(3), 2).float()
    found = attend(PROXY, given, GRID, scale=0.3, proxies=half.reshape(1, *GRID, 2).expand(2, -1, -1, -1))
    patches = given["v"][:, :, 1:]
    for kind in range(2):
        inside = half[:, kind] == 1
        mean = patches[:, :, inside].mean(dim=2, keepdim=True).expand(-1, -1, int(inside.sum()), -1)
        torch.testing.assert_close(found[:, :, 1:][:, :, inside], mean)


@pytest.mark.parametrize("held", [1, 40, 10_000], ids=["row by row", "in strips", "at once"])
def test_a_proxys_attention_is_the_papers(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """softmax((S - beta mean S) gamma), what is negative left out, however many cosines are held at once."""
    monkeypatch.setattr(readouts, "_MAX_COSINES", held)
    proxies, values = drawn(2, 15, 6, seed=1), drawn(2, 15, 4, seed=2)
    for picture in range(2):
        unit = F.normalize(proxies[picture], dim=-1)
        cosines = unit @ unit.T
        logits = (cosines - 1.2 * cosines.mean()) * 3
        wanted = logits.masked_fill(logits < 0, -torch.inf).softmax(dim=-1) @ values[picture]
        torch.testing.assert_close(proxy_attention(Proxy(), proxies, values)[picture], wanted)


def test_a_picture_of_nothing_but_likes_has_attention_too() -> None:
    """The paper's own attention has no patch left there: every cosine is below 1.2 times their mean."""
    values = drawn(1, 15, 4, seed=2)
    torch.testing.assert_close(proxy_attention(Proxy(), torch.ones(1, 15, 6), values), values)


def test_readouts_that_contradict_themselves_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="must have terms or a proxy"):
        Readout("both", "none", (("q", "q"),), proxy=Proxy())
    with pytest.raises(ValueError, match="sharpness above 0"):
        Readout("flat", "none", (("q", "q"),), sharpness=0)
    with pytest.raises(ValueError, match="given the proxies"):
        attend(PROXY, sources(), GRID, scale=1.0)


@pytest.mark.parametrize(
    ("model", "offered", "proxies", "name"),
    [
        pytest.param("ViT-B-16/openai", ALL, False, "naclip", id="OpenAI's weights"),
        pytest.param("RN50/openai", frozenset(), False, "value", id="OpenAI's ResNet has no queries per patch"),
        pytest.param("ViT-B-16/openai", ALL, True, "proxy", id="OpenAI's weights with a tower"),
        pytest.param("ViT-B-16/datacomp_xl_s13b_b90k", ALL, False, "value", id="DataComp's"),
        pytest.param("ViT-B-16/laion2b_s34b_b88k", ALL, True, "proxy", id="LAION's with a tower"),
        pytest.param("ViT-B-16-SigLIP2/webli", frozenset({"k", "v"}), False, "value", id="an attention pool"),
        pytest.param("/models/openai.pt", ALL, False, "value", id="a file"),
        pytest.param("builtin", frozenset(), False, "value", id="builtin"),
    ],
)
def test_the_default_goes_by_the_family_of_the_weights(
    model: str, offered: frozenset[Source], proxies: bool, name: str
) -> None:
    assert choose_readout("auto", model, offered=offered, proxies=proxies).name == name


@pytest.mark.parametrize(
    ("setting", "message", "remedy"),
    [
        pytest.param("magic", "none of that name", "value, clearclip, sclip", id="unknown"),
        pytest.param("proxy", "needs an affinity tower", "ZEROMASK_AFFINITY_TOWER", id="no tower"),
        pytest.param("sclip", "compares q of patches", "one of: value, naclip, naclip-stitched.", id="attention pool"),
    ],
)
def test_an_unsupported_readout_is_an_error_with_those_supported(setting: str, message: str, remedy: str) -> None:
    with pytest.raises(ModelUnavailable, match=message) as caught:
        choose_readout(setting, "ViT-B-16-SigLIP2/webli", offered=frozenset({"k", "v"}), proxies=False)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", READOUTS)
@torch.inference_mode()
def test_every_readout_gives_the_same_features_in_bfloat16(name: str, visual: Any, pixels: Tensor) -> None:
    proxies = drawn(2, 4, 4, 6, seed=5)
    plain = token_features(visual, pixels, readout=READOUTS[name], proxies=proxies)
    with torch.autocast("cpu", torch.bfloat16):
        low = token_features(visual, pixels, readout=READOUTS[name], proxies=proxies)
    assert float(F.cosine_similarity(plain[:, 1:], low[:, 1:].float(), dim=-1).min()) > 0.98
