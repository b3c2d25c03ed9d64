"""Directions in the space of parameters: random ones that fit a network, and what a plane holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from thalweg.curvature.given import module_of
from thalweg.curvature.product import flat
from thalweg.errors import ThalwegError, brief, whole
from thalweg.parameters import norm

#: One tensor per parameter, or all their entries in one vector, (D,).
Direction = Sequence[Tensor] | Tensor

_NORMALIZING = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: The sine of an angle below which two directions are one.
_PARALLEL = 1e-6


def filter_normalized(model: nn.Module, seed: int = 0) -> list[Tensor]:
    """Return a random direction of which each filter is as long as the model's own.

    A filter is what makes one output channel: a row of a matrix, a kernel of a convolution. Biases,
    other vectors and numbers, and whatever a normalization layer owns are left where they are. So
    planes of networks that differ by the scale of their layers can be compared.

    Args:
        model: The model.
        seed: Of the normal numbers that are drawn. torch's generators are not touched.

    Returns:
        One tensor for each of ``model.parameters()`` that requires a gradient.

    Raises:
        ThalwegError: If the model has no filters.

    Source:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> weight, bias = filter_normalized(model)
        >>> torch.allclose(weight.norm(dim=1), model.weight.norm(dim=1)), bias
        (True, tensor([0., 0.]))
    """
    model = module_of(model)
    still = {
        p
        for layer in model.modules()
        if isinstance(layer, _NORMALIZING)
        for p in layer.parameters(recurse=False)
    }
    turned = {layer.weight for layer in model.modules() if isinstance(layer, _TRANSPOSED)}
    draw = torch.Generator().manual_seed(whole("seed", seed))
    found = []
    for p in model.parameters():
        if not p.requires_grad:
            continue
        noise = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.device)
        if p.ndim < 2 or p in still:
            found.append(torch.zeros_like(p, requires_grad=False))
            continue
        over = [axis for axis in range(p.ndim) if axis != (1 if p in turned else 0)]
        lengths = torch.linalg.vector_norm(p.detach().double(), dim=over, keepdim=True)
        own = torch.linalg.vector_norm(noise, dim=over, keepdim=True)
        found.append((noise * (lengths / own)).to(p.dtype))
    if not any(bool(d.any()) for d in found):
        raise ThalwegError(
            "model must have a trainable tensor of two dimensions or more that is not 0, got none: "
            "there are no filters to draw"
        )
    return found


def share_explained(moves: Iterable[Direction], first: Direction, second: Direction) -> float:
    """Return what share of the squared movement lies in the plane of two directions.

    Where it is small, a drawing of the plane says little of the training it stands beside. Of a
    move that has nothing to do with the plane it is about 2/D.

    Args:
        moves: The steps of a trajectory, or its points minus one of them: each one tensor per
            parameter, or one vector, (D,). A matrix, (T, D), will do.
        first: One direction of the plane, likewise.
        second: The other; not parallel to it.

    Returns:
        Between 0 and 1: the sum over moves of the squared length within the plane, divided by the
        sum of the squared length.

    Raises:
        ThalwegError: If the directions are parallel, do not fit, or nothing moved.

    Example:
        >>> e1, e2, e3 = torch.eye(3)
        >>> share_explained([e1 + e2, 2 * e3], e1, e2 - e1)  # 2 of 2 + 4
        0.3333333333333333
    """
    across, _ = basis(_parts("first", first), _parts("second", second))
    if not isinstance(moves, Iterable):
        raise ThalwegError(f"moves must be a list of directions, got {brief(moves)}")
    inside = total = 0.0
    for move in moves:
        vector = flat(_parts("each of moves", move)).detach().double()
        if vector.shape != across.shape[1:]:
            raise ThalwegError(
                f"each of moves must have the {across.shape[1]} entries of the directions, got "
                f"{len(vector)}"
            )
        inside += float((across @ vector).square().sum())
        total += float(vector.square().sum())
    if not 0 < total < math.inf:
        raise ThalwegError(f"moves must have a finite length above 0, got the square {total}")
    return min(1.0, inside / total)


def _parts(name: str, direction: Direction) -> list[Tensor]:
    parts = [direction] if isinstance(direction, Tensor) else direction
    found = list(parts) if isinstance(parts, Iterable) else []
    if not found or not all(isinstance(part, Tensor) for part in found):
        raise ThalwegError(
            f"{name} must be one tensor for each parameter, or one vector of all their entries, "
            f"got {brief(direction)}"
        )
    return found


def fitting(name: str, direction: Direction, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return a direction in the shapes, the dtype and on the device of the weights.

    Args:
        name: What the caller calls it.
        direction: One tensor per parameter, or one vector.
        weights: The parameters.

    Raises:
        ThalwegError: If it does not fit, or its length is 0 or not finite.

    Example:
        >>> fitting("first", torch.tensor([1.0, 2.0]), [torch.zeros(1, 2)])
        [tensor([[1., 2.]])]
    """
    parts = _parts(name, direction)
    size = sum(w.numel() for w in weights)
    if isinstance(direction, Tensor) and direction.shape == (size,):
        cut = torch.split(direction, [w.numel() for w in weights])
        parts = [d.view(w.shape) for d, w in zip(cut, weights, strict=True)]
    if [d.shape for d in parts] != [w.shape for w in weights]:
        raise ThalwegError(
            f"{name} must be one tensor for each of the {len(weights)} parameters, in their "
            f"shapes, or one vector of their {size} entries, got {[tuple(d.shape) for d in parts]}"
        )
    found = [d.detach().to(w) for d, w in zip(parts, weights, strict=True)]
    if not 0 < float(norm(found)) < math.inf:
        raise ThalwegError(f"{name} must have a finite length above 0, got {float(norm(found))}")
    return found


def basis(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return an orthonormal basis of a plane, (2, D), and the cosine between the directions.

    Args:
        first: One direction, one tensor per parameter.
        second: The other.

    Raises:
        ThalwegError: If they are parallel, or do not have as many entries.

    Example:
        >>> basis([torch.tensor([2.0, 0.0])], [torch.tensor([3.0, 4.0])])
        (tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64), 0.6)
    """
    u, v = (flat(parts).detach().double() for parts in (first, second))
    if u.shape != v.shape:
        raise ThalwegError(
            f"first and second must have equally many entries, got {len(u)} and {len(v)}"
        )
    u, v = (x / torch.linalg.vector_norm(x) for x in (u, v))
    cosine = float(u @ v)
    rest = v - cosine * u
    rest = rest - (u @ rest) * u
    sine = float(torch.linalg.vector_norm(rest))
    if not sine > _PARALLEL:
        raise ThalwegError(
            f"second must not be parallel to first, nor 0, got a sine of {sine:.1g} between them: "
            "there are many planes through one line"
        )
    return torch.stack([u, rest / sine]), cosine
