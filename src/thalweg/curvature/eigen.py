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

from thalweg.curvature.given import product_of
from thalweg.curvature.product import Product, flat
from thalweg.curvature.trace import drawn, finite, unit
from thalweg.errors import ThalwegError, number, whole

#: Of what stands in the start beside the gradient, or beside a former eigenvector and a random
#: vector as long: what those lack must be found, too.
_SHARE = 0.3
#: Products after the first at which all is well. An eigenvalue that was overlooked grows out of the
#: residual meanwhile, and the next value found rises with it, by more than this share of the gap.
_AGAIN, _SETTLED = 2, 0.3
#: Vectors that are held when one eigenvalue is asked for at the lower end, where they lie close.
_ROOM_BELOW = 20
_LEAST_WARM, _LEAST_BELOW = 6, 10  #: Products: from a former vector; where values lie close.
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
        converged: Whether the error was estimated to be small enough at three products in a row.
            An estimate knows nothing of an eigenvalue that was overlooked: see :func:`lambda_max`.
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

    A search may overlook it: where the start has little of its vector, and the next eigenvalue is
    near. Of 1000 searches each on quadratics of 1000 parameters whose second eigenvalue lies 10, 5,
    2 and 1 % below the first (the others below a quarter of it), 3, 4, 15 and 41 ended at the
    second and said ``converged``; of 315 on small networks on digits none, of as many for the three
    largest and for the smallest eigenvalue 2 and 3. Another ``seed`` is another chance.

    Args:
        product: From :func:`hessian_vector_product` or another of its kind.
        tolerance: Error of the value that is enough, relative to the largest size of an eigenvalue
            found. Estimated by 2·residual²/gap, gap being the distance to the next value found,
            once that has settled; it must be small enough at three products in a row.
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
    if k > product_of(product).size:
        raise ThalwegError(f"k must be at most {product.size}, the number of entries, got {k}")
    tolerance = number("tolerance", tolerance, above=0)
    most, seed = whole("most", most, at_least=k), whole("seed", seed)
    room = min(whole("room", room, at_least=min(k + 1, product.size)), product.size)
    least = _LEAST_WARM if start is not None else _LEAST_BELOW if sign < 0 else k
    row, following = 0, math.nan  # products in a row at which all was well; the next value there
    w = _start(product, start, seed, sign)
    held = w.new_empty(room, product.size)
    small = torch.zeros(room, room, dtype=torch.float64)
    count, scale, full = 0, 0.0, False
    for taken in range(1, most + 1):
        held[count] = unit(w)
        del w  # it would live through the product
        w = finite(product(held[count]))
        w = w if sign > 0 else -w
        count += 1
        basis = held[:count]
        along = basis @ w
        scale = max(scale, float(torch.linalg.vector_norm(w)))
        for _ in range(2):  # once leaves what rounding brought in
            w -= basis.mT @ (basis @ w)
        small[count - 1, :count] = small[:count, count - 1] = along.double()
        length = float(torch.linalg.vector_norm(w))
        values, mix = torch.linalg.eigh(small[:count, :count])
        values, mix = values.flip(0), mix.flip(1)
        residuals = length * mix[-1].abs()
        # What is left of a vector within the span is rounding: it has no direction.
        full = length <= 100 * torch.finfo(w.dtype).eps * scale
        row = row + 1 if _enough(values, residuals, k, tolerance * scale, following) else 0
        following = float(values[k]) if count > k else math.nan
        enough = full or (taken >= least and row > _AGAIN)
        if (count >= k and enough) or count == product.size or taken == most:
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
    return Eigenpairs(
        (sign * values[:k]).to(held.device),
        vectors,
        residuals[:k].to(held.device),
        taken,
        len(values) >= k and (enough or len(values) == product.size),
    )


def _enough(values: Tensor, residuals: Tensor, k: int, allowed: float, following: float) -> bool:
    """Whether the error of each of the first k values is within what is allowed."""
    if len(values) <= k:
        return False
    # While the next value rises, it tells nothing of the gap. NaN is what has not been seen.
    if not abs(float(values[k]) - following) <= _SETTLED * float(values[k - 1] - values[k]):
        return False
    for i in range(k):
        residual = float(residuals[i])
        # The next eigenvalue may lie within its residual of the nearest value found; an error is
        # quadratic in the residual only where it is farther away than that.
        gaps = ((values - values[i]).abs() - residuals).tolist()
        gap = min((g for j, g in enumerate(gaps) if j != i), default=0.0)
        # Twice, as the next eigenvalue lies at or above the next value found.
        error = residual if gap <= 2 * residual else 2 * residual**2 / gap
        if error > allowed:
            return False
    return True


def _start(product: Product, start: Tensor | None, seed: int, sign: float) -> Tensor:
    """A vector that lacks no direction: a former eigenvector alone would never be left again."""
    noise = drawn(product, seed)
    gradient = flat(product.gradient)
    usable = sign > 0 and 0 < float(torch.linalg.vector_norm(gradient)) < math.inf
    gradient = unit(gradient) if usable else torch.zeros_like(noise)
    if start is None:
        return noise if sign < 0 else gradient + _SHARE * noise
    if not isinstance(start, Tensor) or start.shape[-1:] != (product.size,) or start.ndim > 2:
        got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise ThalwegError(
            f"start must be a vector of the {product.size} entries of the parameters, or several "
            f"as rows, got {got}: pass vector or vectors of a result"
        )
    begin: Tensor = start.reshape(-1, product.size).sum(0).to(noise)
    if not 0 < float(torch.linalg.vector_norm(begin)) < math.inf:
        return noise
    return unit(begin) + noise + _SHARE * gradient
