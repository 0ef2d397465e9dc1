"""Readouts: what replaces the last attention of a model trained to give one feature per image, so that patch features
become local. Each published readout is data, and one function applies them all to queries, keys and values.

The last attention of such a model runs over the whole image, so that every token ends up describing all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.tiling import Tiling, average_windows, cut_grid

Source = Literal["q", "k", "v"]

AUTO = "auto"
_MAX_COSINES = 16_000_000  # cosines held at once, 64 MB


_STITCHED = "-stitched"  # ends the name of such a readout


@dataclass(frozen=True)
class Proxy:
    """How cosines S of another model become attention: softmax of (S - beta * mean S) * gamma where that is positive.

    Attributes:
        beta: multiple of the image's mean cosine above which two patches attend to each other.
        gamma: inverse temperature of the softmax.
    """

    beta: float = 1.2
    gamma: float = 3.0


@dataclass(frozen=True)
class Readout:
    """One way to compute patch features in the last block; what is averaged is always the values.

    Attributes:
        name: value of the READOUT setting.
        paper: where it was published.
        terms: pairs of what is compared; each pair is an attention of its own, and their results are added. Without
            terms and proxy, every token attends to itself alone.
        sharpness: factor on the usual logit scale 1 / sqrt(d).
        gaussian_sigma: standard deviation, in patches, of the Gaussian added to the logits between patches; 0 = none.
        gaussian_height: of that Gaussian at distance 0, in logits.
        procrustes: whether the keys are first rotated onto the queries, head by head.
        proxy: how another model's features give the attention, instead of terms.
        residual: whether the input of the last block is added to the output of its attention.
        mlp: whether the last block's MLP is applied.
        stitched: whether the patches of an image in several windows are compared across all windows, not each window's
            among themselves. In one window it changes nothing.
    """

    name: str
    paper: str
    terms: tuple[tuple[Source, Source], ...] = ()
    sharpness: float = 1.0
    gaussian_sigma: float = 0.0
    gaussian_height: float = 1.0
    procrustes: bool = False
    proxy: Proxy | None = None
    residual: bool = False
    mlp: bool = False
    stitched: bool = False

    def __post_init__(self) -> None:
        if self.proxy is not None and self.terms:
            raise ValueError(f"readout {self.name} must have terms or a proxy, got both")
        if self.gaussian_sigma < 0 or self.sharpness <= 0:
            raise ValueError(f"readout {self.name} must have a gaussian_sigma of at least 0 and a sharpness above 0")
        if self.stitched and self.proxy is None and not self.terms:
            raise ValueError(f"readout {self.name} is stitched and must have terms or a proxy, got neither")

    @property
    def compared(self) -> frozenset[Source]:
        """What a backbone must have of every patch, besides the values."""
        rotated: set[Source] = {"q", "k"} if self.procrustes else set()
        return frozenset({source for term in self.terms for source in term} | rotated)


_ALONE = (
    Readout("value", "MaskCLIP, Zhou et al., ECCV 2022; no residual and no MLP: ClearCLIP"),
    Readout("clearclip", "ClearCLIP, Lan et al., ECCV 2024", (("q", "q"),)),
    Readout("sclip", "SCLIP, Wang et al., ECCV 2024", (("q", "q"), ("k", "k")), residual=True, mlp=True),
    Readout("naclip", "NACLIP, Hajimiri et al., WACV 2025", (("k", "k"),), gaussian_sigma=5.0),
    Readout("pearl", "PEARL, CVPR 2026", (("q", "k"),), procrustes=True),
    Readout("proxy", "ProxyCLIP, Lan et al., ECCV 2024", proxy=Proxy()),
    Readout("standard", "CLIP, Radford et al., ICML 2021: as trained", (("q", "k"),), residual=True, mlp=True),
)
_ACROSS = tuple(
    replace(one, name=one.name + _STITCHED, paper=f"OV-Stitcher, Moon et al., arXiv 2604.08110, on {one.paper}",
            stitched=True)
    for one in _ALONE if one.name in {"clearclip", "sclip", "naclip", "proxy"}
)  # fmt: skip

READOUTS = {readout.name: readout for readout in (*_ALONE, *_ACROSS)}


def choose_readout(
    setting: str, model: str, *, offered: frozenset[Source], proxies: bool, stitches: bool = True
) -> Readout:
    """Return the readout that a setting names, or by default the one that suits the origin of the weights.

    Attention from a model's own queries and keys was tuned on OpenAI's weights and fails on LAION's (OpenCLIP ViT-H,
    mean mIoU of eight benchmarks: SCLIP 29.1, ProxyCLIP 44.4; Shi et al., Trident, ICCV 2025), whereas the affinity of
    a DINO works for both. So `auto` is `proxy` where an affinity tower is set; else `naclip`, the best of its kind
    there, for a ViT with weights tagged `openai`; else, weights of unknown origin included, `value`.

    Args:
        setting: `auto` or a name of READOUTS.
        model: the MODEL setting.
        offered: what the backbone has of every patch to compare.
        proxies: whether an affinity tower is set.
        stitches: whether patches of several windows compare; with rotary positions, which differ from window to window,
            they do not.

    Raises:
        ModelUnavailable: no such readout, or one that needs what this backbone lacks, or an affinity tower.
    """
    if setting == AUTO:
        name = "proxy" if proxies else "naclip" if model.partition("/")[2] == "openai" else "value"
        return READOUTS[name] if READOUTS[name].compared <= offered else READOUTS["value"]
    subject, names = f"readout {setting}", ", ".join(READOUTS)
    if setting not in READOUTS:
        raise ModelUnavailable(subject, "there is none of that name", f"Set ZEROMASK_READOUT=auto or one of: {names}.")
    readout = READOUTS[setting]
    if readout.proxy is not None and not proxies:
        remedy = "Set ZEROMASK_AFFINITY_TOWER, for example to vit_small_patch16_224.dino, or ZEROMASK_READOUT=auto."
        raise ModelUnavailable(subject, "needs an affinity tower and none is set", remedy)
    if readout.stitched and readout.proxy is None and not stitches:
        problem = f"compares patches across windows, which {model} cannot: its rotary positions are those of a window"
        raise ModelUnavailable(subject, problem, f"Set ZEROMASK_READOUT={setting.removesuffix(_STITCHED)}.")
    if not readout.compared <= offered:
        supported = (one for one in READOUTS.values() if one.compared <= offered and (proxies or one.proxy is None))
        choices = ", ".join(one.name for one in supported)
        lacking = " and ".join(sorted(readout.compared - offered))
        problem = f"compares {lacking} of patches, which the image tower of {model} does not have"
        raise ModelUnavailable(subject, problem, f"Set ZEROMASK_READOUT=auto or one of: {choices}.")
    return readout


def attend(
    readout: Readout,
    sources: dict[Source, Tensor],
    grid: tuple[int, int],
    *,
    scale: float,
    proxies: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Average the values of tokens with the attention of a readout.

    With a tiling, the batch is the windows of one image. What is compared and what is averaged then become one grid
    first, each patch the mean over the windows that see it, as in OV-Stitcher (Moon et al., arXiv 2604.08110); tokens
    that are not patches are averaged over all windows. Every window gets its part of the result.

    Args:
        readout: which attention.
        sources: (B, heads, prefix + h * w, d) each: the values, and what the readout compares; tokens that are not
            patches (class, registers) come first.
        grid: (h, w) patches.
        scale: of the logits, as trained.
        proxies: (B, h, w, P) features of another model; required by a proxy readout.
        tiling: where windows lie that are attended to at once; None = every member of the batch by itself.

    Returns:
        (B, heads, prefix + h * w, d).

    Raises:
        ValueError: a proxy readout without proxies.
    """
    if tiling is not None:
        return _attend_across(readout, sources, scale=scale, proxies=proxies, tiling=tiling)
    values = sources["v"]
    prefix = values.shape[2] - grid[0] * grid[1]
    if readout.proxy is not None:
        if proxies is None:
            raise ValueError(f"readout {readout.name} must be given the proxies' features")
        patches = values[:, :, prefix:].transpose(1, 2)  # (B, N, heads, d)
        mixed = proxy_attention(readout.proxy, proxies.flatten(1, 2), patches.flatten(2)).reshape(patches.shape)
        return torch.cat([values[:, :, :prefix], mixed.transpose(1, 2)], dim=2)
    if not readout.terms:
        return values
    if readout.procrustes:
        sources = {**sources, "k": procrustes_align(sources["q"], sources["k"]).type_as(values)}
    scale *= readout.sharpness
    count = values.shape[2]
    rows = max(1, _MAX_COSINES // count) if readout.gaussian_sigma else count
    parts = []
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        bias = gaussian_bias(readout, grid, prefix, values, tokens=part) if readout.gaussian_sigma else None
        terms = ((sources[one][:, :, part], sources[other]) for one, other in readout.terms)
        found = [F.scaled_dot_product_attention(*pair, values, attn_mask=bias, scale=scale) for pair in terms]
        parts.append(found[0] if len(found) == 1 else torch.stack(found).sum(dim=0))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attend_across(
    readout: Readout, sources: dict[Source, Tensor], *, scale: float, proxies: Tensor | None, tiling: Tiling
) -> Tensor:
    """See `attend`: the windows of one image at once."""
    windows, heads, count, width = sources["v"].shape
    prefix = count - tiling.window[0] * tiling.window[1]

    def stitched(parts: Tensor) -> Tensor:
        tokens = parts.transpose(1, 2).flatten(2)  # (windows, prefix + h * w, heads * d)
        seen = tokens[:, prefix:].reshape(windows, *tiling.window, heads * width)
        whole = torch.cat([tokens[:, :prefix].mean(dim=0), average_windows(list(seen), tiling).flatten(0, 1)])
        return whole.reshape(1, len(whole), heads, width).transpose(1, 2)  # (1, heads, prefix + H * W, d)

    whole = {source: stitched(parts) for source, parts in sources.items()}
    if proxies is not None:
        proxies = average_windows(list(proxies), tiling)[None]
    mixed = attend(readout, whole, tiling.grid, scale=scale, proxies=proxies)[0].transpose(0, 1)
    patches = cut_grid(mixed[prefix:].reshape(*tiling.grid, heads, width), tiling).flatten(1, 2)
    return torch.cat([mixed[:prefix].expand(windows, -1, -1, -1), patches], dim=1).transpose(1, 2)


def gaussian_bias(
    readout: Readout, grid: tuple[int, int], prefix: int, like: Tensor, *, tokens: slice = slice(None)
) -> Tensor:
    """Compute the Gaussian of patch distances that NACLIP adds to the logits.

    Args:
        readout: its `gaussian_sigma` and `gaussian_height`.
        grid: (h, w) patches.
        prefix: tokens before the patches; their rows and columns are 0.
        like: a tensor of the wanted dtype and device.
        tokens: the tokens whose rows are wanted.

    Returns:
        (n, prefix + h * w), n = prefix + h * w where all rows are wanted.
    """
    rows, columns = (torch.arange(side, device=like.device, dtype=torch.float32) for side in grid)
    decay = 1 / (2 * readout.gaussian_sigma**2)
    start, stop, _ = tokens.indices(prefix + grid[0] * grid[1])
    place = torch.arange(max(start, prefix), max(stop, prefix), device=like.device) - prefix
    down = torch.exp(-decay * (rows[place // grid[1], None] - rows).square())  # (n, h)
    across = torch.exp(-decay * (columns[place % grid[1], None] - columns).square())  # (n, w)
    bias = readout.gaussian_height * (down[:, :, None] * across[:, None]).flatten(1)
    return F.pad(bias, (prefix, 0, max(0, min(stop, prefix) - start), 0)).to(like.dtype)


def procrustes_align(queries: Tensor, keys: Tensor) -> Tensor:
    """Centre the keys, (..., N, d), and rotate them as close as possible to the centred queries.

    The orthogonal Procrustes problem (Schönemann, 1966), solved for each head as in PEARL (CVPR 2026).
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = queries.float(), keys.float()
        queries, keys = (x - x.mean(dim=-2, keepdim=True) for x in (queries, keys))
        left, _, right = torch.linalg.svd(keys.transpose(-1, -2) @ queries)
        rotated: Tensor = keys @ (left @ right)
    return rotated


def mix_patches(
    proxy: Proxy | None, proxies: Tensor | None, values: Tensor, *, tiling: Tiling | None = None
) -> Tensor:
    """Average values of patches with the attention of ProxyCLIP.

    Args:
        proxy: how cosines become attention; None = every patch keeps its values.
        proxies: (B, h, w, P) features of another model; None = the same.
        values: (B, h, w, C).
        tiling: where windows lie that are attended to at once, see `attend`; None = every member of the batch by
            itself.

    Returns:
        (B, h, w, C).
    """
    if proxy is None or proxies is None:
        return values
    if tiling is not None:
        whole = mix_patches(
            proxy, average_windows(list(proxies), tiling)[None], average_windows(list(values), tiling)[None]
        )
        return cut_grid(whole[0], tiling)
    return proxy_attention(proxy, proxies.flatten(1, 2), values.flatten(1, 2)).reshape(values.shape)


def proxy_attention(proxy: Proxy, proxies: Tensor, values: Tensor) -> Tensor:
    """Average values with the attention of ProxyCLIP (Lan et al., ECCV 2024), never holding all cosines at once.

    The mean cosine is taken over each image. Beyond the paper, every patch attends to itself: in an image whose patches
    are all alike, no cosine exceeds beta times their mean.

    Args:
        proxy: how cosines become attention.
        proxies: (B, N, P) features of another model.
        values: (B, N, C).

    Returns:
        (B, N, C) in the dtype of the values.
    """
    with torch.autocast(values.device.type, enabled=False):
        unit = F.normalize(proxies.float(), dim=-1)
        mean = unit.mean(dim=1).square().sum(dim=-1)[:, None, None]  # of all cosines
        values32 = values.float()
        count = unit.shape[1]
        rows = max(1, _MAX_COSINES // (len(unit) * count))
        parts = []
        for start in range(0, count, rows):
            logits = (unit[:, start : start + rows] @ unit.transpose(1, 2)).sub_(proxy.beta * mean).mul_(proxy.gamma)
            logits.diagonal(offset=start, dim1=1, dim2=2).clamp_min_(0.0)
            logits.masked_fill_(logits < 0, -torch.inf)
            parts.append(logits.softmax(dim=-1) @ values32)
        return torch.cat(parts, dim=1).to(values.dtype)
