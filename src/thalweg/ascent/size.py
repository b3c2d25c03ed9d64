"""How far SAM looks: the power p, its cap, and other laws for the length of ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol

import torch

from thalweg.ascent.context import Number
from thalweg.errors import ThalwegError, brief, number


class Size(Protocol):
    """A law for the length of ε, in the place of the power."""

    def __call__(self, norm: Number, step: int) -> Number:
        """Return f(n) of ε = ρ f(n) s, s being of length n; n is above 0."""
        ...


@dataclass(frozen=True, slots=True)
class Between:
    r"""Between USAM and SAM: :math:`\varepsilon = \rho (1 - \lambda + \lambda / n) g`.

    Attributes:
        share: λ, from 0 (USAM) to 1 (SAM); ``None`` for 1 - 1/t in step t = 1, 2, ...

    Source:
        Oikonomou and Loizou, Sharpness-Aware Minimization: General Analysis and Improved Rates,
        ICLR 2025.

    Example:
        >>> Between(0.5)(2.0, step=0), Between()(2.0, step=3)
        (0.75, 0.625)
    """

    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None:
            share = number("share", self.share, at_least=0, at_most=1)
            object.__setattr__(self, "share", share)

    @property
    def stateless(self) -> bool:
        """Whether it is the same at every step."""
        return self.share is not None

    def __call__(self, norm: Number, step: int) -> Number:
        """Return 1 - λ + λ/n."""
        share = 1 - 1 / (step + 1) if self.share is None else self.share
        return 1 - share + share / norm


@dataclass(frozen=True, slots=True)
class Monge:
    r"""The metric of the loss surface: :math:`\varepsilon = \rho g / (n \sqrt{1 + n^2})`.

    Small gradients are normalized, large ones twice.

    Source:
        Jacobsen and Arvanitidis, Monge SAM: Robust Reparameterization-Invariant Sharpness-Aware
        Minimization Based on Loss Geometry, 2025.

    Example:
        >>> round(Monge()(2.0, step=0), 4)
        0.2236
    """

    stateless: ClassVar[bool] = True

    def __call__(self, norm: Number, step: int) -> Number:
        """Return 1 / (n √(1 + n²))."""
        return 1 / (norm * (1 + norm * norm) ** 0.5)


def size(
    rho: Number,
    norm: Number,
    power: Number = 1.0,
    max_norm: Number = math.inf,
    law: Size | None = None,
    step: int = 0,
) -> Number:
    """Return the factor c of ε = c·s, that is ρ n^(-p), cut so that c·n stays within the cap.

    Args:
        rho: Radius, in units of parameters times (norm units)^(p-1).
        norm: Dual norm n of the direction. Where it is a float, all others must be floats.
        power: The normalization p.
        max_norm: Cap on the length c·n of ε.
        law: Stands in the place of n^(-p).
        step: How many steps went before, for the law.

    Returns:
        The factor, of the kind of ``norm``; 0 where n is not finite, or 0 at p > 0: no move.

    Source:
        p = 1: Foret et al., Sharpness-Aware Minimization, ICLR 2021. p = 0 and the comparison:
        Dai, Ahn and Sra, The Crucial Role of Normalization in SAM, NeurIPS 2023.

    Example:
        >>> size(0.1, torch.tensor([4.0, 0.0, torch.inf]), power=0.5)
        tensor([0.0500, 0.0000, 0.0000])
        >>> size(0.1, 4.0, power=0.5)
        0.05
    """
    if isinstance(norm, float):
        return _size_of_floats(rho, norm, power, max_norm, law, step)
    factor = torch.as_tensor(rho * (norm**-power if law is None else _told(law, norm, step)))
    if not isinstance(max_norm, float) or math.isfinite(max_norm):
        factor = torch.minimum(factor, max_norm / norm)
    # The length is NaN or infinite where n is not finite, and for p > 0 where n is 0.
    return torch.where(factor * norm < math.inf, factor, 0.0)


def _size_of_floats(
    rho: Any, norm: float, power: Any, max_norm: Any, law: Size | None, step: int
) -> float:
    """The same in plain numbers, which take a tenth of the time."""
    if not 0 < norm < math.inf or rho == 0:
        return float(rho) if norm == 0 == power and law is None else 0.0
    try:
        share = norm**-power if law is None else _told(law, norm, step)
        factor = min(rho * share, max_norm / norm)
    except OverflowError:  # of a tiny norm
        factor = max_norm / norm
    return float(factor) if factor * norm < math.inf else 0.0


def _told(law: Size, norm: Number, step: int) -> Any:
    """What the law says, if that is a number."""
    found = law(norm, step)
    if not isinstance(found, Real | torch.Tensor):
        raise ThalwegError(
            f"size must give a number, got {brief(found)} of {brief(law)}: return f(n) of "
            "ε = ρ f(n) s"
        )
    return found
