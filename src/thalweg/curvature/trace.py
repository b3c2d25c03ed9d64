"""The trace of a Hessian, from products with random vectors, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.curvature.given import product_of
from thalweg.curvature.product import Product
from thalweg.errors import ThalwegError, brief, number, whole

#: Samples without which a standard error is not believed, so that a lucky few do not end a search.
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that was estimated from samples.

    Attributes:
        value: The estimate.
        error: Its standard error; 0 where nothing was left to chance. Rounding is not in it. From
            n samples it is itself uncertain by about 1/√(2n) of its size: of estimates from ten,
            nine in ten lie within two errors, not nineteen in twenty.
        products: Products taken.
        converged: Whether the error asked for was reached; ``True`` where none was asked for.
    """

    value: float
    error: float
    products: int
    converged: bool


def trace(
    product: Product,
    *,
    method: Literal["hutch++", "hutchinson"] = "hutch++",
    tolerance: float | None = None,
    products: int = 100,
    seed: int = 0,
) -> Estimate:
    r"""Return the trace of a symmetric matrix, such as a Hessian: the sum of its eigenvalues.

    Hutchinson's estimate is the mean of zᵀHz over random vectors z of signs. Hutch++ takes a basis
    Q of what H does to a few such vectors, which lies mostly along its largest eigenvalues, sums up
    qᵀHq there and leaves the rest to Hutchinson:

    .. math:: \operatorname{tr} H = \operatorname{tr} Q^\top H Q
              + \mathbb{E}\, z^\top (1 - QQ^\top) H (1 - QQ^\top) z

    It is the better one where few eigenvalues are large, and it holds the basis, a vector of the
    size of a gradient for every third product. Hutchinson holds two vectors. Where D is at most
    ``products``, Hutch++ gives way to the sum over the unit vectors: the diagonal itself.

    Args:
        product: From :func:`hessian_vector_product` or another of its kind.
        method: ``"hutch++"`` or ``"hutchinson"``.
        tolerance: Standard error that is enough, relative to the size of the estimate; ``None``
            takes all ``products``. A sum of eigenvalues that nearly cancel never gets there.
        products: The most that are taken.
        seed: Of the random vectors. torch's generators are not touched.

    Returns:
        An :class:`Estimate`, in the units of an eigenvalue.

    Raises:
        ThalwegError: If an argument is out of range, or a product is not finite.

    Source:
        Hutchinson, Communications in Statistics 18, 1989. Meyer, Musco, Musco and Woodruff,
        Hutch++: Optimal Stochastic Trace Estimation, SOSA 2021; that the basis grows until the
        error is reached, and that the samples are used again when it has, is derived here.

    Example:
        >>> from thalweg.curvature import hessian_vector_product
        >>> w = torch.ones(3, requires_grad=True)
        >>> product = hessian_vector_product(lambda: (w**2).sum() + w[0] ** 2, [w])
        >>> trace(product)
        Estimate(value=8.0, error=0.0, products=3, converged=True)
    """
    if method not in ("hutch++", "hutchinson"):
        raise ThalwegError(f'method must be "hutch++" or "hutchinson", got {brief(method)}')
    product = product_of(product)
    allowed = math.inf if tolerance is None else number("tolerance", tolerance, above=0)
    most = whole("products", products, at_least=2)
    seed = whole("seed", seed)
    deflated = method == "hutch++"
    if deflated and product.size <= most:
        return _summed(product)
    # Where an error is asked for, the basis starts small and doubles with the products.
    budget = most if tolerance is None else min(most, 3 * _FEWEST)
    state = _Deflated(product, seed)
    while True:
        room = min(budget // 3, (budget - 2) // 2) if deflated else 0
        state.grow(room)
        while state.taken < budget:
            state.sample()
            enough = len(state.forms) >= _FEWEST and state.error <= allowed * abs(state.value)
            if tolerance is not None and enough:
                break
        reached = tolerance is None or state.error <= allowed * abs(state.value)
        if reached or budget == most:
            return Estimate(state.value, state.error, state.taken, reached)
        budget = min(2 * budget, most)


class _Deflated:
    """The trace within a growing basis, and samples of what lies outside it."""

    def __init__(self, product: Product, seed: int) -> None:
        self.product = product
        self.taken = 0
        self.exact = 0.0
        self.forms: list[float] = []  # of every sample, with what lies outside the basis
        self._basis = product.parameters[0].new_empty(0, product.size)
        # Of each its own, so that samples can be drawn again when the basis has grown.
        both = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(seed))
        self._sketch = torch.Generator().manual_seed(int(both[0]))
        self._seed = int(both[1])
        self._samples = torch.Generator().manual_seed(self._seed)

    @property
    def value(self) -> float:
        return self.exact + math.fsum(self.forms) / len(self.forms)

    @property
    def error(self) -> float:
        n = len(self.forms)
        if n < 2:
            return math.inf
        mean = math.fsum(self.forms) / n
        return math.sqrt(math.fsum((f - mean) ** 2 for f in self.forms) / (n - 1) / n)

    @torch.no_grad()
    def grow(self, room: int) -> None:
        """Let the basis have as many vectors; two products for each that is new."""
        held = len(self._basis)
        if room <= held:
            return
        sketch = [self._times(signs(self.product, self._sketch)) for _ in range(room - held)]
        # Of both together: what is new stays orthogonal even where it adds nothing but rounding.
        whole_basis = torch.linalg.qr(torch.cat([self._basis, torch.stack(sketch)]).mT).Q.mT
        new = whole_basis[held:]
        self._basis = torch.cat([self._basis, new])
        images = torch.stack([self._times(q) for q in new])
        inner = (new @ images.mT).double()
        self.exact += float(inner.trace())
        again = torch.Generator().manual_seed(self._seed)
        for i, form in enumerate(self.forms):
            z = self._outside(signs(self.product, again), self._basis[:held])
            along, bent = (new @ z).double(), (images @ z).double()
            # The form of z − Qᵀ(Qz), without a product.
            self.forms[i] = form + float(along @ (inner @ along) - 2 * (along @ bent))

    @torch.no_grad()
    def sample(self) -> None:
        """Take one more sample; one product."""
        z = self._outside(signs(self.product, self._samples), self._basis)
        self.forms.append(float(z @ self._times(z)))

    @staticmethod
    def _outside(z: Tensor, basis: Tensor) -> Tensor:
        return z - basis.mT @ (basis @ z) if len(basis) else z

    def _times(self, vector: Tensor) -> Tensor:
        self.taken += 1
        return finite(self.product(vector))


@torch.no_grad()
def _summed(product: Product) -> Estimate:
    total = 0.0
    for i in range(product.size):
        unit = product.parameters[0].new_zeros(product.size)
        unit[i] = 1.0
        total += float(finite(product(unit))[i])
    return Estimate(total, 0.0, product.size, converged=True)


def signs(product: Product, draw: torch.Generator) -> Tensor:
    """Return a random vector of signs, the same on every device; (D,).

    Args:
        product: Of whose dtype and on whose device.
        draw: A generator on the CPU.
    """
    like = product.parameters[0]
    bits = torch.randint(2, (product.size,), generator=draw, dtype=torch.int8)
    return (2 * bits - 1).to(like.device, like.dtype)


def drawn(product: Product, seed: int) -> Tensor:
    """Return a random unit vector, the same for the same seed on every device; (D,).

    Args:
        product: Of whose dtype and on whose device.
        seed: Of the normal numbers.
    """
    like = product.parameters[0]
    draw = torch.Generator().manual_seed(seed)
    noise: Tensor = torch.randn(product.size, generator=draw, dtype=like.dtype)
    return unit(noise.to(like.device))


def unit(vector: Tensor) -> Tensor:
    """Return a vector scaled to length 1.

    Args:
        vector: Not 0.
    """
    found: Tensor = vector / torch.linalg.vector_norm(vector)
    return found


def finite(image: Tensor) -> Tensor:
    """Return a product, or raise an error if it is not finite.

    Args:
        image: What a product with some vector gave.

    Raises:
        ThalwegError: If an entry is infinite or NaN.
    """
    if not bool(image.isfinite().all()):
        raise ThalwegError(
            "the product must be finite, got inf or nan: measure in float64, or where the loss "
            "is smoother"
        )
    return image
