"""The ends of a Hessian's spectrum, by Lanczos' method with a bounded number of vectors.

Every new vector is kept orthogonal to all that are held. When there is no room for more, the best
approximations found so far are kept and the rest is let go (thick restart): the memory is bounded,
the products go on being used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.product import Product, flat
from thalweg.errors import ThalwegError, number, whole

#: Of a random vector in the start, beside the gradient: what the gradient lacks must be found too.
_SHARE = 0.1
#: Vectors that are held when one eigenvalue is asked for at the lower end, where they lie close.
_ROOM_BELOW = 20
#: Entries of every vector that are worked on at a time, so that this takes no memory to speak of.
_COLUMNS = 2**14


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """Approximate eigenvalues at one end of the spectrum, the outermost first.

    Attributes:
        values: Eigenvalues, (k,).
        vectors: Unit eigenvectors over all the parameters in their order, (k, D).
        residuals: ‖Hv − λv‖, (k,). Some eigenvalue lies within this of the value.
        products: Products taken.
        converged: Whether the error asked for was reached.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool

    @property
    def value(self) -> float:
        """The outermost eigenvalue."""
        return float(self.values[0])

    @property
    def vector(self) -> Tensor:
        """Its eigenvector, (D,)."""
        return self.vectors[0]

    @property
    def residual(self) -> float:
        """Its residual."""
        return float(self.residuals[0])


def lambda_max(
    product: Product,
    *,
    tolerance: float = 1e-3,
    most: int = 100,
    room: int = 3,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """Return the largest eigenvalue: the curvature in the direction that bends most upwards.

    Args:
        product: From :func:`hessian_vector_product` or another of its kind.
        tolerance: Error of the value that is enough, relative to the largest size of an eigenvalue
            found. Estimated by residual²/gap, gap being the distance to the next value found.
        most: Products after which the search ends, whatever is reached.
        room: Vectors held at a time, each of the size of a gradient; more need fewer products
            where many eigenvalues lie close.
        start: Where the search begins, (D,), such as ``vector`` of an earlier result; the
            gradient with a share of a random vector unless told otherwise.
        seed: Of the random vector. torch's generators are not touched.

    Returns:
        One eigenpair.

    Raises:
        ThalwegError: If an argument is out of range or does not fit.

    Example:
        >>> from thalweg.curvature import hessian_vector_product
        >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> product = hessian_vector_product(lambda: 2 * w[0] ** 2 + w[1] ** 2 / 2, [w])
        >>> found = lambda_max(product)
        >>> round(found.value, 4), found.products
        (4.0, 2)
    """
    return top_eigenvalues(
        product, 1, tolerance=tolerance, most=most, room=room, start=start, seed=seed
    )


def top_eigenvalues(
    product: Product,
    k: int,
    *,
    tolerance: float = 1e-3,
    most: int = 200,
    room: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """Return the k largest eigenvalues with their vectors.

    Of eigenvalues that are equal, one search finds one.

    Args:
        product: As for :func:`lambda_max`.
        k: How many; no more than there are parameters.
        tolerance: As for :func:`lambda_max`, for each of them.
        most: As for :func:`lambda_max`.
        room: As for :func:`lambda_max`; more than k. 2k + 4 unless told otherwise.
        start: Where the search begins, (D,), or ``vectors`` of an earlier result, (k, D).
        seed: Of the random vector.

    Returns:
        The eigenpairs, the largest value first.

    Raises:
        ThalwegError: If an argument is out of range or does not fit.

    Example:
        >>> from thalweg.curvature import hessian_vector_product
        >>> w = torch.ones(3, dtype=torch.float64, requires_grad=True)
        >>> diagonal = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
        >>> product = hessian_vector_product(lambda: (diagonal * w**2).sum() / 2, [w])
        >>> top_eigenvalues(product, 2).values.round(decimals=4).tolist()
        [3.0, 2.0]
    """
    k = whole("k", k, at_least=1)
    room = 2 * k + 4 if room is None else room
    return _search(product, 1.0, k, tolerance, most, room, start, seed)


def smallest_eigenvalue(
    product: Product,
    *,
    tolerance: float = 1e-3,
    most: int = 200,
    room: int = _ROOM_BELOW,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """Return the smallest eigenvalue, below 0 where the loss bends downwards somewhere.

    Args:
        product: As for :func:`lambda_max`.
        tolerance: As for :func:`lambda_max`: relative to the largest size found, not to this value.
        most: As for :func:`lambda_max`.
        room: As for :func:`lambda_max`.
        start: As for :func:`lambda_max`; a random vector unless told otherwise.
        seed: Of the random vector.

    Returns:
        One eigenpair.

    Raises:
        ThalwegError: If an argument is out of range or does not fit.

    Example:
        >>> from thalweg.curvature import hessian_vector_product
        >>> w = torch.ones(2, dtype=torch.float64, requires_grad=True)
        >>> product = hessian_vector_product(lambda: w[0] ** 2 - w[1] ** 2 / 2, [w])
        >>> round(smallest_eigenvalue(product).value, 6)
        -1.0
    """
    return _search(product, -1.0, 1, tolerance, most, room, start, seed)


@torch.no_grad()
def _search(
    product: Product,
    sign: float,
    k: int,
    tolerance: float,
    most: int,
    room: int,
    start: Tensor | None,
    seed: int,
) -> Eigenpairs:
    """Find the k largest eigenvalues of ``sign`` times the matrix."""
    tolerance = number("tolerance", tolerance, above=0)
    most = whole("most", most, at_least=k)
    if k > product.size:
        raise ThalwegError(
            f"k must be at most the {product.size} entries of the parameters, got {k}"
        )
    room = min(whole("room", room, at_least=min(k + 1, product.size)), product.size)
    w = _start(product, start, seed, sign)
    held = w.new_empty(room, product.size)
    small = torch.zeros(room, room, dtype=torch.float64)
    count, scale, full = 0, 0.0, False
    for taken in range(1, most + 1):
        held[count] = unit(w)
        del w  # it would live through the product
        w = product(held[count])
        w = w if sign > 0 else -w
        count += 1
        basis = held[:count]
        along = basis @ w
        scale = max(scale, float(torch.linalg.vector_norm(w)))
        if not math.isfinite(scale):
            raise ThalwegError(
                "the product must be finite, got inf or nan: measure in float64, or where the loss "
                "is smoother"
            )
        for _ in range(2):  # once leaves what rounding brought in
            w -= basis.mT @ (basis @ w)
        small[count - 1, :count] = small[:count, count - 1] = along.double()
        length = float(torch.linalg.vector_norm(w))
        values, mix = torch.linalg.eigh(small[:count, :count])
        values, mix = values.flip(0), mix.flip(1)
        residuals = length * mix[-1].abs()
        # What is left of a vector within the span is rounding: it has no direction.
        full = length <= 100 * torch.finfo(w.dtype).eps * scale
        if count >= k and (full or _enough(values, residuals, k, tolerance * scale)):
            break
        if count == product.size or taken == most:
            break
        if count == room:
            keep = max(k, room - max(1, room // 3))
            turn = mix[:, :keep].mT.to(held)
            for part in torch.split(held, _COLUMNS, dim=1):
                part[:keep] = turn @ part
            small = torch.zeros_like(small)
            small.diagonal()[:keep] = values[:keep]
            count = keep
        if full:  # the span is closed: go on outside it
            w = drawn(product, seed + taken)
            for _ in range(2):
                w -= held[:count].mT @ (held[:count] @ w)
    vectors = mix[:, :k].mT.to(held) @ held[: len(values)]
    enough = full or len(values) == product.size
    return Eigenpairs(
        (sign * values[:k]).to(held.device),
        vectors,
        residuals[:k].to(held.device),
        taken,
        len(values) >= k and (enough or _enough(values, residuals, k, tolerance * scale)),
    )


def _enough(values: Tensor, residuals: Tensor, k: int, allowed: float) -> bool:
    """Whether the error of each of the first k values is within what is allowed."""
    if len(values) <= k and float(residuals[: len(values)].max()) > allowed:
        return False
    for i in range(k):
        residual = float(residuals[i])
        # The nearest other value that was found; an error is quadratic in the residual only where
        # the next eigenvalue is farther away than that.
        gaps = [abs(float(values[i] - v)) for j, v in enumerate(values) if j != i]
        gap = min(gaps, default=0.0)
        error = residual if gap <= 2 * residual else residual**2 / gap
        if error > allowed:
            return False
    return True


def _start(product: Product, start: Tensor | None, seed: int, sign: float) -> Tensor:
    noise = drawn(product, seed)
    if start is not None:
        if not isinstance(start, Tensor) or start.shape[-1:] != (product.size,) or start.ndim > 2:
            got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
            raise ThalwegError(
                f"start must be a vector of the {product.size} entries of the parameters, or "
                f"several as rows, got {got}: pass vector or vectors of a result"
            )
        begin: Tensor = start.reshape(-1, product.size).sum(0).to(noise)
        share = 0.01
    else:
        begin, share = flat(product.gradient), _SHARE
    size: Tensor = torch.linalg.vector_norm(begin)
    if (sign < 0 and start is None) or not 0 < float(size) < math.inf:
        return noise
    found: Tensor = begin / size + share * noise
    return found


def drawn(product: Product, seed: int) -> Tensor:
    """Return a random unit vector, the same for the same seed on every device; (D,)."""
    like = product.parameters[0]
    draw = torch.Generator().manual_seed(seed)
    noise: Tensor = torch.randn(product.size, generator=draw, dtype=like.dtype)
    return unit(noise.to(like.device))


def unit(vector: Tensor) -> Tensor:
    """Return a vector scaled to length 1."""
    length: Tensor = torch.linalg.vector_norm(vector)
    return vector / length
