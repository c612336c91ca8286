"""Exact attention over a sequence that is spread over ranks: Ulysses, ring, and both at once.

Tensors have diffusers' layout, (batch, tokens here, heads, head size). Neither scheme needs equal shares: rank i may
hold any number of tokens, and heads go to Ulysses members as b+1, .., b (none for members beyond the number of
heads).

- Ulysses [1]: exchange so that every rank has all tokens of some heads, attend, exchange back. Two all-to-alls.
- Ring [2]: keep the queries, pass over every rank's keys and values, merge partial results by their log-sum-exp [3].

[1] Jacobs et al., DeepSpeed-Ulysses, arXiv:2309.14509. [2] Liu et al., Ring Attention, arXiv:2310.01889. [3] Milakov
and Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gfdit.collectives.splits import even_split
from gfdit.errors import ModelError
from gfdit.worker.formation import Group, SequenceGroups

#: Attention on one rank, of (query, key, value, mask, scale). The mask broadcasts to (batch, heads, queries, keys) and
#: is True, or 0, where a key is seen.
Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float | None],
    torch.Tensor,
]


def parallel_attention(
    attend: Attend,
    groups: SequenceGroups,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of this rank's queries to the keys of all ranks; `mask` speaks of this rank's keys only.

    Raises ModelError for what cannot be split: keys of another length than the queries, or a mask with a row per query.
    """
    if not query.shape[1] == key.shape[1] == value.shape[1]:
        raise ModelError(f"a split sequence has {query.shape[1]} queries and {key.shape[1]} keys on one rank")
    mask = _key_mask(mask, key.shape[1])
    if key.shape[2] != query.shape[2]:  # grouped-query attention: give every query head its own key and value head
        repeats = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    if groups.ulysses is None:
        return _over_keys(attend, groups.ring, query, key, value, mask, scale)
    group, heads = groups.ulysses, query.shape[2]
    shares = even_split(heads, group.size)
    received = group.all_to_all(torch.stack((query, key, value)).split(shares, dim=3))
    query, key, value = torch.cat(received, dim=2).unbind(0)
    if mask is not None:
        mask = torch.cat(group.all_gather(mask), dim=-1)
        mask = mask.split(shares, dim=1)[group.index] if mask.shape[1] == heads > 1 else mask
    out = _over_keys(attend, groups.ring, query, key, value, mask, scale)
    tokens = [block.shape[2] for block in received]
    return torch.cat(group.all_to_all(out.split(tokens, dim=1)), dim=2)


def _over_keys(
    attend: Attend,
    ring: Group | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Attention of `query` to the keys of all members of the ring, or to `key` alone without one."""
    if ring is None:
        return attend(query, key, value, mask, scale) if query.shape[2] else torch.empty_like(query)
    masks = None if mask is None else ring.all_gather(mask)
    total = _Partial(*attention_with_lse(query, key, value, mask, scale))
    for member, block in ring.stream(torch.stack((key, value))):
        key, value = block.unbind(0)
        total.merge(*attention_with_lse(query, key, value, None if masks is None else masks[member], scale))
    return total.out.to(query.dtype)


class _Partial:
    """Attention to the keys seen so far, in float32, with the log-sum-exp of their scores."""

    def __init__(self, out: torch.Tensor, lse: torch.Tensor) -> None:
        self.out, self.lse = out.float(), lse

    def merge(self, out: torch.Tensor, lse: torch.Tensor) -> None:
        """Add the attention to further keys."""
        weight = torch.sigmoid(lse - self.lse).nan_to_num(0.0).unsqueeze(-1)  # NaN: neither part sees any key
        self.out = self.out + weight * (out.float() - self.out)
        self.lse = torch.logaddexp(self.lse, lse)


def attention_with_lse(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (batch, queries, heads, size) and the log-sum-exp of its scores (batch, queries, heads), in float32.

    A query that sees no key gets 0 and -inf.
    """
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if mask is None and q.shape[1] and (fused := _fused(q, k, v, scale)) is not None:
        out, lse = fused
    else:
        scores = q.float() @ k.float().transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        lse = scores.logsumexp(dim=-1)
        out = (scores - lse.unsqueeze(-1)).exp().nan_to_num(0.0) @ v.float()
    return out.transpose(1, 2), lse.float().transpose(1, 2)


def _fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The flash kernel of the device, which also returns the log-sum-exp; None where there is none for this dtype."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
        return out, lse
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
        return out, lse
    return None


def _key_mask(mask: torch.Tensor | None, keys: int) -> torch.Tensor | None:
    """The mask as (batch, heads or 1, 1, keys)."""
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask[:, None, None, :]
    elif mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or mask.shape[2] != 1 or mask.shape[3] != keys:
        raise ModelError(f"an attention mask of shape {tuple(mask.shape)} has rows for queries; it cannot be split")
    return mask
