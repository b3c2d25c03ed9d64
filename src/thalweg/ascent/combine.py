"""What the base optimizer gets, from the gradient here (g) and the one uphill (h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from thalweg.ascent.context import Context, ratio
from thalweg.errors import number


class Combine(Protocol):
    """Makes one gradient out of the passes' gradients.

    A part may also have ``beside``, called likewise: what that gives is multiplied by the learning
    rate and taken off the weights after the base optimizer's step, past its momentum and its
    preconditioning.
    """

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return what the base optimizer gets, one tensor per parameter.

        Args:
            here: Gradient at w, one tensor per parameter.
            uphill: Gradient at w + ε, one tensor per parameter.
            context: The step.
        """
        ...


@dataclass(frozen=True, slots=True)
class SAMGradient:
    """The gradient at w + ε, as it is.

    Example:
        >>> SAMGradient()([], [], Context())
        []
    """

    stateless: ClassVar[bool] = True

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return the uphill gradient."""
        return uphill


@dataclass(frozen=True, slots=True)
class Mix:
    """(1 - k) g + k h: less of the ascent below k = 1, more of it above.

    Attributes:
        k: 0 is the plain gradient, 1 SAM's.

    Source:
        Zhao, Zhang and Hu, Penalizing Gradient Norm for Efficiently Improving Generalization in
        Deep Learning, ICML 2022; Yue et al., Sharpness-Aware Minimization Revisited: Weighted
        Sharpness as a Regularization Term, KDD 2023 (k = γ / (1 - γ), coupled).

    Example:
        >>> Mix(0.5)([torch.tensor([2.0])], [torch.tensor([4.0])], Context())
        [tensor([3.])]
    """

    k: float
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", number("k", self.k))

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return g + k (h - g)."""
        return context.each(lambda g, h: torch.add(g, h - g, alpha=self.k), here, uphill)


@dataclass(frozen=True, slots=True)
class Decoupled:
    r"""g for the base optimizer, and :math:`k (h - g)` beside its step (WSAM, decoupled).

    .. math:: w \leftarrow w - \mathrm{base}(g) - \eta\, k\, (h - g)

    The sharpness part meets no momentum and no preconditioning. It is multiplied by the learning
    rate of its param group when the step is taken. What is done to ``.grad`` after the loop, such
    as clipping, is done to g alone: average micro-batches in their loss.

    Attributes:
        k: γ / (1 - γ). With plain SGD, 1 is SAM.

    Source:
        Yue et al., Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization
        Term, KDD 2023.

    Example:
        >>> g, h = [torch.tensor([2.0])], [torch.tensor([5.0])]
        >>> Decoupled(0.5)(g, h, Context()), Decoupled(0.5).beside(g, h, Context())
        ([tensor([2.])], [tensor([1.5000])])
    """

    k: float
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", number("k", self.k))

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return g; where h is not finite neither is this, or a gradient scaler would not hear."""
        return context.each(lambda g, h: torch.add(g, h, alpha=0), here, uphill)

    def beside(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return k (h - g)."""
        return context.each(lambda g, h: self.k * (h - g), here, uphill)


@dataclass(frozen=True, slots=True)
class SurrogateGap:
    r"""h less a share of the part of g that lies across it: :math:`h - \alpha g_\perp` (GSAM).

    It lowers the loss at w + ε by h, and the gap between that loss and the one at w by the rest.

    Attributes:
        alpha: α.

    Source:
        Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022.

    Example:
        >>> g, h = [torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.0])]
        >>> SurrogateGap(0.5)(g, h, Context())
        [tensor([ 2.0000, -0.5000])]
    """

    alpha: float = 0.4
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", number("alpha", self.alpha))

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return h - α (g - (<g, h> / ‖h‖²) h)."""
        norm = context.norm(uphill)
        factor = 1 + self.alpha * ratio(context.dot(here, uphill), norm * norm)
        alpha = self.alpha
        return context.each(lambda g, h, n: torch.sub(h * n, g, alpha=alpha), here, uphill, factor)


@dataclass(frozen=True, slots=True)
class Rescaled:
    """h, brought to the length of g (StableSAM).

    Source:
        Tan et al., Stabilizing Sharpness-Aware Minimization through a Simple Renormalization
        Strategy, JMLR 2025.

    Example:
        >>> Rescaled()([torch.tensor([2.0])], [torch.tensor([8.0])], Context())
        [tensor([2.])]
    """

    stateless: ClassVar[bool] = True

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        """Return (‖g‖ / ‖h‖) h."""
        factor = ratio(context.norm(here), context.norm(uphill))
        return context.each(torch.mul, uphill, factor)


@dataclass(frozen=True, slots=True)
class Spherical:
    r"""As long as h, turned from g towards h and beyond, on the sphere (XSAM at a fixed α).

    Where g and h are in line, there is no plane to turn in, and it is h.

    Attributes:
        alpha: 0 has the direction of g, 1 that of h, up to 2 beyond it.

    Source:
        XSAM, ICLR 2026 (2603.10048); there α is searched for, here it is fixed.

    Example:
        >>> g, h = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 3.0])]
        >>> [t.round(decimals=3) for t in Spherical(2.0)(g, h, Context())]
        [tensor([-3.,  0.])]
    """

    alpha: float = 1.0
    stateless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", number("alpha", self.alpha, at_least=0, at_most=2))

    def __call__(
        self, here: Sequence[Tensor], uphill: Sequence[Tensor], context: Context
    ) -> Sequence[Tensor]:
        r"""Return ‖h‖ (sin((1-α)θ) g/‖g‖ + sin(αθ) h/‖h‖) / sin θ, θ the angle between them."""
        lengths = context.norm(here), context.norm(uphill)
        cosine = ratio(context.dot(here, uphill), lengths[0] * lengths[1])
        angle = torch.acos(torch.as_tensor(cosine, dtype=torch.float64).clamp(-1, 1))
        flat = torch.sin(angle) < 1e-7  # gradients in line span no plane to turn in
        sine = torch.where(flat, 1.0, torch.sin(angle))
        of_g = torch.where(flat, 0.0, torch.sin((1 - self.alpha) * angle) / sine)
        of_h = torch.where(flat, 1.0, torch.sin(self.alpha * angle) / sine)
        of_g = of_g * ratio(lengths[1], lengths[0])
        return context.each(lambda g, h, a, b: a * g + b * h, here, uphill, of_g, of_h)
