"""From a file's tensors for one module to low-rank factors: LoRA, DoRA, LoHa and LoKr.

LoHa (Hyeon-Woo et al. 2021, arXiv:2108.06098) is an elementwise product of two low-rank products, which is itself one
whose rank is the product of theirs. LoKr (Yeh et al. 2023, arXiv:2309.14859) is a Kronecker product, whose factors are
Kronecker products of its parts' factors. So both become a LoRA exactly; what a lower rank loses is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.errors import CheckpointError
from acestep.lora.factors import Factors
from acestep.lora.low_rank import LowRank, decompose

Parts = Mapping[str, Tensor]
Shapes = Mapping[str, Sequence[int]]

_LOHA_ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True)
class Kind:
    """A way to write a module's change."""

    name: str
    needs: tuple[frozenset[str], ...]
    """Sets of roles, one of which must be there in full."""
    shape: Callable[[Shapes], tuple[int, ...]]
    """Of the change, from the shapes alone; ValueError or IndexError where they do not fit each other."""
    rank: Callable[[Shapes], int | None]
    """What alpha is divided by, from the shapes alone; None where the kind then has no scale."""
    factors: Callable[[Parts, int | None], tuple[Factors, float]]
    """Float32 parts, the largest rank wanted -> factors without the scale, the share of the norm that is lost."""


def kind_of(roles: Collection[str]) -> Kind | None:
    """The kind whose parts are all there; None where some are missing."""
    return next((kind for kind in KINDS if any(needed <= set(roles) for needed in kind.needs)), None)


def magnitude_of(parts: Parts, outputs: int) -> Tensor | None:
    """DoRA's magnitudes, (out,), from PEFT's vector or LyCORIS' `dora_scale`; None for another kind.

    CheckpointError for LyCORIS' older form with a magnitude for each input, which is no DoRA as the paper has it.
    """
    found = parts.get("magnitude", parts.get("dora_scale"))
    if found is None:
        return None
    if "magnitude" not in parts and found.shape[0] != outputs:
        raise CheckpointError(
            f"its DoRA has a magnitude for each input ({list(found.shape)} where there are {outputs} outputs);"
            " only those for each output can be used"
        )
    return found.float().flatten()


def shaped_like(factors: Factors, weight: Sequence[int]) -> Factors:
    """The same factors with the trailing axes of that weight: programs differ in how they write 1x1 convolutions."""
    inputs = tuple(factors.a.shape[1:])
    if len(inputs) == len(weight) - 1 or _without_ones(inputs) != _without_ones(weight[1:]):
        return factors
    ones = (1,) * (len(weight) - 2)
    return Factors(
        factors.a.reshape(factors.rank, *weight[1:]),
        factors.b.flatten(1)[..., *(None for _ in ones)],
        factors.magnitude,
    )


def _lora(parts: Parts, rank: int | None) -> tuple[Factors, float]:
    a = parts["A"]
    if "mid" in parts:
        # The Tucker form of convolutions: a small kernel between two pointwise products.
        a = torch.einsum("ij...,jk->ik...", parts["mid"], a.flatten(1))
    return _cut(Factors(a, parts["B"]), rank)


def _loha(parts: Parts, rank: int | None) -> tuple[Factors, float]:
    """(B1 A1) * (B2 A2), elementwise: each pair of columns and of rows is multiplied (a Khatri-Rao product)."""
    (b1, a1), (b2, a2) = (_loha_side(parts, side) for side in "12")
    b = (b1[:, :, None] * b2[:, None, :]).flatten(1)
    a = (a1[:, None] * a2[None, :]).flatten(0, 1)
    return _cut(_no_wider_than_needed(b, a), rank)


def _loha_side(parts: Parts, side: str) -> tuple[Tensor, Tensor]:
    b, a = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"]
    if (core := parts.get(f"hada_t{side}")) is None:
        return b, a
    return b.T, torch.einsum("ij...,jn->in...", core, a)


def _lokr(parts: Parts, rank: int | None) -> tuple[Factors, float]:
    """kron(W1, W2). Whole: factors of W1 and W2, Kronecker-multiplied; cut: the largest products of singular values."""
    first, second = _lokr_side(parts, "1"), _lokr_side(parts, "2")
    (b1, a1), (b2, a2) = first, second
    full = b1.shape[1] * b2.shape[1]
    if rank is None or rank >= full:
        return _no_wider_than_needed(_kron(b1, b2), _kron(a1, a2)), 0.0
    one, other = (decompose(b, a.flatten(1)) for b, a in (first, second))
    products = torch.outer(one.values, other.values).flatten()
    order = products.argsort(descending=True)[:rank]
    mine, theirs = order // max(other.rank, 1), order % max(other.rank, 1)
    left = torch.einsum("ar,br->abr", one.left[:, mine], other.left[:, theirs]).flatten(0, 1)
    right = torch.einsum("ra,rb->rab", one.right[mine], other.right[theirs]).flatten(1)
    change = LowRank(left, products[order], right, float(products.square().sum()))
    return _leading(change, rank, (len(left), a1.shape[1] * a2.shape[1], *a2.shape[2:]))


def _lokr_side(parts: Parts, side: str) -> tuple[Tensor, Tensor]:
    """One of the two small matrices as factors (b, a); one that is given whole is multiplied by the identity."""
    if (whole := parts.get(f"lokr_w{side}")) is not None:
        return _identity_pair(whole)
    b, a = parts[f"lokr_w{side}_a"], parts[f"lokr_w{side}_b"]
    core = parts.get(f"lokr_t{side}")
    return (b, a) if core is None else (b.T, torch.einsum("ij...,jn->in...", core, a))


def _identity_pair(whole: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix, or a convolution's weight, as a product with the smaller identity."""
    outputs, inputs = whole.shape[0], whole.flatten(1).shape[1]
    if outputs <= inputs:
        return torch.eye(outputs), whole
    return whole.flatten(1), torch.eye(inputs).view(inputs, *whole.shape[1:])


def _kron(first: Tensor, second: Tensor) -> Tensor:
    """kron of (r1, i1) with (r2, i2, *kernel) -> (r1 r2, i1 i2, *kernel)"""
    product = torch.einsum("ab,cd...->acbd...", first, second)
    return product.flatten(0, 1).flatten(1, 2)


def _no_wider_than_needed(b: Tensor, a: Tensor) -> Factors:
    """Factors of a rank that no matrix of that shape exceeds."""
    if b.shape[1] > min(b.shape[0], a.flatten(1).shape[1]):
        b, a = _identity_pair((b @ a.flatten(1)).view(b.shape[0], *a.shape[1:]))
    return _convolved(b, a)


def _convolved(b: Tensor, a: Tensor) -> Factors:
    """With the trailing axes on B that convolutions have."""
    return Factors(a, b.view(*b.shape, *(1 for _ in a.shape[2:])))


def _cut(factors: Factors, rank: int | None) -> tuple[Factors, float]:
    if rank is None or rank >= factors.rank:
        return factors, 0.0
    return _leading(decompose(factors.b.flatten(1), factors.a.flatten(1)), rank, factors.delta_shape())


def _leading(change: LowRank, rank: int, shape: tuple[int, ...]) -> tuple[Factors, float]:
    """The nearest change of that rank or less, and the share of the norm that it lacks; zeros of rank 1 for none."""
    if not change.rank:
        return _convolved(torch.zeros(shape[0], 1), torch.zeros(1, *shape[1:])), 0.0
    return change.cut(rank).factors(shape), change.lost(rank) ** 0.5


def _without_ones(axes: Sequence[int]) -> tuple[int, ...]:
    """(in, 3, 1) -> (in, 3): the trailing axes of length one say nothing."""
    kept = list(axes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _chained(b: Sequence[int], a: Sequence[int], core: Sequence[int] | None = None) -> tuple[int, ...]:
    """The shape of b @ a, with the small kernel of a Tucker form between them where there is one."""
    joined = (b[1], a[0]) if core is None else (b[1], *core[:2], a[0])
    if len(a) < 2 or len(joined) not in (2, 4) or joined[::2] != joined[1::2] or min(joined) < 1:
        raise ValueError
    return (b[0], *a[1:]) if core is None else (b[0], a[1], *core[2:])


def _lora_shape(shapes: Shapes) -> tuple[int, ...]:
    return _chained(shapes["B"], shapes["A"], shapes.get("mid"))


def _loha_shape(shapes: Shapes) -> tuple[int, ...]:
    first, second = (_side_shape(shapes, f"hada_w{side}", f"hada_t{side}") for side in "12")
    if first != second:
        raise ValueError
    return first


def _lokr_shape(shapes: Shapes) -> tuple[int, ...]:
    first, second = (_side_shape(shapes, f"lokr_w{side}", f"lokr_t{side}") for side in "12")
    return first[0] * second[0], first[1] * second[1], *second[2:]


def _side_shape(shapes: Shapes, whole: str, core: str) -> tuple[int, ...]:
    """One of the two matrices: given whole, as a product, or as a product with a kernel between its factors."""
    if whole in shapes:
        return tuple(shapes[whole])
    b = shapes[f"{whole}_a"]
    return _chained(b if core not in shapes else b[::-1], shapes[f"{whole}_b"], shapes.get(core))


def _first_axis(role: str) -> Callable[[Shapes], int | None]:
    return lambda shapes: next(iter(shapes[role]), None)


def _lokr_rank(shapes: Shapes) -> int | None:
    """LyCORIS divides alpha by the rank of what is factored, W2 before W1; two whole matrices have no scale."""
    factored = (f"lokr_w{side}_b" for side in "21" if f"lokr_w{side}" not in shapes)
    return next((size for role in factored for size in shapes.get(role, ())[:1]), None)


def _lokr_needs() -> tuple[frozenset[str], ...]:
    sides = [({f"lokr_w{side}"}, {f"lokr_w{side}_a", f"lokr_w{side}_b"}) for side in "12"]
    return tuple(frozenset(first | second) for first in sides[0] for second in sides[1])


KINDS = (
    Kind("LoRA", (frozenset({"A", "B"}),), _lora_shape, _first_axis("A"), _lora),
    Kind("LoHa", (frozenset(_LOHA_ROLES),), _loha_shape, _first_axis("hada_w1_b"), _loha),
    Kind("LoKr", _lokr_needs(), _lokr_shape, _lokr_rank, _lokr),
)


def change_shape(kind: Kind, shapes: Shapes) -> tuple[int, ...] | None:
    """(out, in, *kernel) of the change that parts of these shapes make; None where they do not fit each other."""
    try:
        return kind.shape(shapes)
    except (KeyError, IndexError, ValueError):
        return None
