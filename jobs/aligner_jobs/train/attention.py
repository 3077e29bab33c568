"""Attention within the documents of a pack, and never across. Shapes: T = tokens of the pack,
H = heads, E = width of a head, D = documents of a bucket, L = tokens of its longest.

Everything but attention works token by token, so a pack costs no padding there. For attention the
documents are laid side by side, each with its own beginning: what one document holds cannot reach
another, because it is never in the same row of a product. On a GPU with half precision PyTorch's
variable-length kernel does the same without laying anything out.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

_NAME: Final = "aligner_packed"

_BUCKET_RATIO: Final = 1.5
"""A bucket's longest document is at most this many times its shortest: a bucket costs a few calls,
and padding inside it goes with the square."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Documents of like length that stand next to each other in the pack."""

    begin: int
    end: int
    """Their tokens are ``begin`` to ``end`` of the pack's T."""
    documents: int
    longest: int
    slots: torch.Tensor
    """Where each of these tokens stands among the bucket's D x L places."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How a pack's documents lie; it travels with a forward call down to the attention."""

    buckets: tuple[Bucket, ...]
    offsets: torch.Tensor
    """int32: where each document begins, and T."""
    longest: int

    def to(self, device: torch.device) -> "Layout":
        """The same on ``device``."""
        buckets = tuple(
            Bucket(b.begin, b.end, b.documents, b.longest, b.slots.to(device)) for b in self.buckets
        )
        return Layout(buckets, self.offsets.to(device), self.longest)


def use_packed_attention(model: Any) -> None:
    """Make a Transformers model attend by :func:`packed_attention`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def layout_of(lengths: IntArray) -> Layout:
    """Of documents with these lengths, the longest first."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    borders = [0]
    for place, length in enumerate(lengths):
        if length * _BUCKET_RATIO < lengths[borders[-1]]:
            borders.append(place)
    buckets = tuple(
        _bucket(lengths[begin:end], int(starts[begin]))
        for begin, end in pairwise([*borders, len(lengths)])
    )
    return Layout(buckets, torch.from_numpy(starts.astype(np.int32)), int(lengths[0]))


def _bucket(lengths: IntArray, begin: int) -> Bucket:
    longest = int(lengths[0])
    slots = [place * longest + np.arange(length) for place, length in enumerate(lengths)]
    return Bucket(
        begin=begin,
        end=begin + int(lengths.sum()),
        documents=len(lengths),
        longest=longest,
        slots=torch.from_numpy(np.concatenate(slots)),
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over 1 x H x T x E; without a ``layout`` it is Transformers' own.

    Returns:
        1 x T x H x E.
    """
    if layout is None:
        # Padded rows, and generation.
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    query_THE, key_THE, value_THE = (x[0].transpose(0, 1) for x in (query, key, value))
    half = query.dtype in (torch.float16, torch.bfloat16)
    attend = _variable_length if query.is_cuda and half else _side_by_side
    return attend(query_THE, key_THE, value_THE, layout, scaling).unsqueeze(0), None


def _side_by_side(
    query_THE: torch.Tensor,
    key_THE: torch.Tensor,
    value_THE: torch.Tensor,
    layout: Layout,
    scaling: float | None,
) -> torch.Tensor:
    done = []
    for bucket in layout.buckets:
        query, key, value = (_laid_out(x, bucket) for x in (query_THE, key_THE, value_THE))
        output_DHLE = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        places = output_DHLE.transpose(1, 2).reshape(-1, *query_THE.shape[1:])
        done.append(places if _dense(bucket) else places.index_select(0, bucket.slots))
    return torch.cat(done) if len(done) > 1 else done[0]


def _laid_out(x_THE: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """The bucket's part of ``x_THE`` as D x H x L x E, zeros behind the shorter documents.

    Under a causal mask no token sees what stands behind it, so the zeros need no mask.
    """
    part = x_THE[bucket.begin : bucket.end]
    if not _dense(bucket):
        places = part.new_zeros(bucket.documents * bucket.longest, *part.shape[1:])
        part = places.index_copy(0, bucket.slots, part)
    return part.view(bucket.documents, bucket.longest, *part.shape[1:]).transpose(1, 2)


def _dense(bucket: Bucket) -> bool:
    return bucket.end - bucket.begin == bucket.documents * bucket.longest


def _variable_length(
    query_THE: torch.Tensor,
    key_THE: torch.Tensor,
    value_THE: torch.Tensor,
    layout: Layout,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query_THE,
        key_THE,
        value_THE,
        layout.offsets,
        layout.offsets,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query_THE.shape[1] != key_THE.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output
