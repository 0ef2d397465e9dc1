"""How patches are read out of a model that was trained to give one feature per picture: each published way as data.

Such a model attends over the whole picture last, so that every token ends up speaking for all of it. A readout says
what that last attention is replaced by. It must not know which tower the queries, keys and values come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import ModelUnavailable

Source = Literal["q", "k", "v"]

AUTO = "auto"
_AFFINITY_VALUES = 16_000_000  # cosines held at once, 64 MB


@dataclass(frozen=True)
class Proxy:
    """How cosines S of another tower become attention: softmax of (S - beta * mean S) * gamma where that is positive.

    Attributes:
        beta: how far above the picture's mean cosine two patches must be alike to see each other.
        gamma: how much more the more alike are seen.
    """

    beta: float = 1.2
    gamma: float = 3.0


@dataclass(frozen=True)
class Readout:
    """One way to read patches; values alone are always what is mixed.

    Attributes:
        name: as the READOUT setting says it.
        paper: who published it.
        terms: what is compared with what; each pair is an attention of its own, and their outcomes are added. None at
            all: every token sees only itself.
        sharpness: multiplies the usual 1 / sqrt(d).
        neighbourhood: standard deviation, patches, of the Gaussian added to the logits between patches; 0 = none.
        height: of that Gaussian at distance 0, in logits.
        procrustes: whether the keys are first turned onto the queries, head by head.
        proxy: how another tower's features decide who sees whom, instead of terms.
        residual: whether what entered the last block is added to what its attention gives.
        mlp: whether the last block's MLP stays.
    """

    name: str
    paper: str
    terms: tuple[tuple[Source, Source], ...] = ()
    sharpness: float = 1.0
    neighbourhood: float = 0.0
    height: float = 1.0
    procrustes: bool = False
    proxy: Proxy | None = None
    residual: bool = False
    mlp: bool = False

    def __post_init__(self) -> None:
        if self.proxy is not None and self.terms:
            raise ValueError(f"readout {self.name} must be by proxy or by terms, got both")
        if self.neighbourhood < 0 or self.sharpness <= 0:
            raise ValueError(f"readout {self.name} must have a neighbourhood of at least 0 and a sharpness above 0")

    @property
    def compared(self) -> frozenset[Source]:
        """What a tower must offer of every patch, beside values to mix."""
        turned: set[Source] = {"q", "k"} if self.procrustes else set()
        return frozenset({source for term in self.terms for source in term} | turned)


READOUTS = {
    readout.name: readout
    for readout in (
        Readout("value", "MaskCLIP, Zhou et al., ECCV 2022; no residual and no MLP: ClearCLIP"),
        Readout("clearclip", "ClearCLIP, Lan et al., ECCV 2024", (("q", "q"),)),
        Readout("sclip", "SCLIP, Wang et al., ECCV 2024", (("q", "q"), ("k", "k")), residual=True, mlp=True),
        Readout("naclip", "NACLIP, Hajimiri et al., WACV 2025", (("k", "k"),), neighbourhood=5.0),
        Readout("pearl", "PEARL, CVPR 2026", (("q", "k"),), procrustes=True),
        Readout("proxy", "ProxyCLIP, Lan et al., ECCV 2024", proxy=Proxy()),
        Readout("standard", "CLIP, Radford et al., ICML 2021: as trained", (("q", "k"),), residual=True, mlp=True),
    )
}


def choose_readout(setting: str, model: str, *, offered: frozenset[Source], proxies: bool) -> Readout:
    """The readout that a setting names, or by default the one that fits the family of the weights.

    Attention built from a model's own queries and keys was tuned on OpenAI's weights and collapses on LAION's (OpenCLIP
    ViT-H, mean mIoU of eight benchmarks: SCLIP 29.1, ProxyCLIP 44.4; Shi et al., Trident, ICCV 2025), whereas the
    affinity of a DINO holds on both. So `auto` is `proxy` where an affinity tower is set; else `naclip`, the best of
    its kind there, for weights tagged `openai` of a ViT; else, weights of unknown origin included, `value`.

    Args:
        setting: `auto` or a name of READOUTS.
        model: the MODEL setting.
        offered: what the tower has of every patch to compare.
        proxies: whether an affinity tower is set.

    Raises:
        ModelUnavailable: no such readout, or one that this tower or the absence of an affinity tower rules out.
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
    if not readout.compared <= offered:
        able = (one for one in READOUTS.values() if one.compared <= offered and (proxies or one.proxy is None))
        fits = ", ".join(one.name for one in able)
        lacking = " and ".join(sorted(readout.compared - offered))
        problem = f"compares {lacking} of patches, which the image tower of {model} has not"
        raise ModelUnavailable(subject, problem, f"Set ZEROMASK_READOUT=auto or one of: {fits}.")
    return readout


def attend(
    readout: Readout,
    sources: dict[Source, Tensor],
    grid: tuple[int, int],
    *,
    scale: float,
    proxies: Tensor | None = None,
) -> Tensor:
    """Mix the values of tokens as a readout says.

    Args:
        readout: the way.
        sources: (B, heads, prefix + h * w, d) each: the values, and whatever the readout compares; tokens that are no
            patches come first.
        grid: (h, w).
        scale: of the logits, as trained.
        proxies: (B, h, w, P) features of another tower; needed where the readout is by proxy.

    Returns:
        (B, heads, prefix + h * w, d).
    """
    values = sources["v"]
    prefix = values.shape[2] - grid[0] * grid[1]
    if readout.proxy is not None:
        if proxies is None:
            raise ValueError(f"readout {readout.name} must be handed the proxies' features")
        patches = values[:, :, prefix:].transpose(1, 2)  # (B, N, heads, d)
        seen = spread(readout.proxy, proxies.flatten(1, 2), patches.flatten(2)).reshape(patches.shape)
        return torch.cat([values[:, :, :prefix], seen.transpose(1, 2)], dim=2)
    if not readout.terms:
        return values
    if readout.procrustes:
        sources = {**sources, "k": turn_onto(sources["q"], sources["k"]).type_as(values)}
    near = neighbourhood(readout, grid, prefix, values) if readout.neighbourhood else None
    scale *= readout.sharpness
    parts = [
        F.scaled_dot_product_attention(sources[one], sources[other], values, attn_mask=near, scale=scale)
        for one, other in readout.terms
    ]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def neighbourhood(readout: Readout, grid: tuple[int, int], prefix: int, like: Tensor) -> Tensor:
    """(prefix + h * w, prefix + h * w) of what nearness adds to the logits; 0 for tokens that are no patches."""
    rows, columns = (torch.arange(side, device=like.device, dtype=torch.float32) for side in grid)
    fall = 1 / (2 * readout.neighbourhood**2)
    down = torch.exp(-fall * (rows[:, None] - rows).square())
    across = torch.exp(-fall * (columns[:, None] - columns).square())
    near = readout.height * torch.einsum("ab,cd->acbd", down, across).reshape(grid[0] * grid[1], -1)
    return F.pad(near, (prefix, 0, prefix, 0)).to(like.dtype)


def turn_onto(queries: Tensor, keys: Tensor) -> Tensor:
    """Centre the keys (..., N, d) and turn them by the rotation that brings them nearest to the centred queries.

    The orthogonal Procrustes problem (Schönemann, 1966), solved head by head as in PEARL (CVPR 2026).
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = queries.float(), keys.float()
        queries, keys = (x - x.mean(dim=-2, keepdim=True) for x in (queries, keys))
        left, _, right = torch.linalg.svd(keys.transpose(-1, -2) @ queries)
        turned: Tensor = keys @ (left @ right)
    return turned


def spread(proxy: Proxy, proxies: Tensor, values: Tensor) -> Tensor:
    """Mix values (B, N, C) by how alike the proxies (B, N, P) are; the cosines are never held all at once.

    ProxyCLIP's attention, with the mean taken over each picture; beyond the paper every patch sees itself, so that a
    picture of nothing but likes has attention too.
    """
    with torch.autocast(values.device.type, enabled=False):
        unit = F.normalize(proxies.float(), dim=-1)
        mean = unit.mean(dim=1).square().sum(dim=-1)[:, None, None]  # of all cosines
        held = values.float()
        count = unit.shape[1]
        rows = max(1, _AFFINITY_VALUES // (len(unit) * count))
        parts = []
        for start in range(0, count, rows):
            logits = (unit[:, start : start + rows] @ unit.transpose(1, 2)).sub_(proxy.beta * mean).mul_(proxy.gamma)
            logits.diagonal(offset=start, dim1=1, dim2=2).clamp_min_(0.0)
            logits.masked_fill_(logits < 0, -torch.inf)
            parts.append(logits.softmax(dim=-1) @ held)
        return torch.cat(parts, dim=1).to(values.dtype)
