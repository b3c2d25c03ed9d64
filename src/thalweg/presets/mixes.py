"""Presets that give the base optimizer something made of both gradients, g and h."""

from __future__ import annotations

from thalweg.ascent import Decoupled, FollowLR, Method, Mix, Rescaled, Spherical, SurrogateGap


def surrogate_gap(
    alpha: float = 0.4, lr_max: float | None = None, lr_min: float = 0.0, rho_min: float = 0.0
) -> Method:
    """SAM that lowers the gap between the loss uphill and the loss here, too (GSAM).

    Formula:
        ε = ρ_t g / ‖g‖,  u = h - α (g - (<g, h> / ‖h‖²) h)

    Rho:
        the largest one, where the learning rate is largest.

    Args:
        alpha: α; .4 is the default of common ports, the authors try .1 to 1.
        lr_max: The largest learning rate, with which ρ_t falls in a straight line as the authors
            have it; ``None`` for a ρ of its own.
        lr_min: The least one.
        rho_min: ρ_t there.

    Cost:
        2 gradients.

    Memory:
        g, beside h.

    Evidence:
        Authors only: ViT-B/32 on ImageNet, 3.2 points above SAM.

    Source:
        Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022.

    Example:
        >>> surrogate_gap(lr_max=0.1).schedule(0.4, step=0, lr=0.05)
        0.2
    """
    combine = SurrogateGap(alpha)
    if lr_max is None and lr_min == rho_min == 0:
        return Method(combine=combine)
    schedule = FollowLR(lr_max, lr_min, rho_min)  # type: ignore[arg-type]  # it refuses None
    return Method(combine=combine, schedule=schedule)


def mix(k: float = 0.8) -> Method:
    """The gradient and SAM's in a fixed share; above 1 more than SAM (GNP, coupled WSAM).

    Formula:
        ε = ρ g / ‖g‖,  u = (1-k) g + k h

    Rho:
        as SAM.

    Args:
        k: 1 is SAM; .8 is our choice. WSAM has k = γ/(1-γ), at its γ = .9 that is 9.

    Cost:
        2 gradients.

    Memory:
        g, beside h.

    Evidence:
        Authors only: GNP 2.52 % error for 2.78 % on CIFAR-10.

    Source:
        Zhao, Zhang and Hu, Penalizing Gradient Norm for Efficiently Improving Generalization in
        Deep Learning, ICML 2022; Yue et al., Sharpness-Aware Minimization Revisited: Weighted
        Sharpness as a Regularization Term, KDD 2023.

    Example:
        >>> mix(0.5).combine
        Mix(k=0.5)
    """
    return Method(combine=Mix(k))


def decoupled(k: float = 1.0) -> Method:
    """The gradient for the base optimizer, and the sharpness beside its step (decoupled WSAM).

    Formula:
        ε = ρ g / ‖g‖,  u = g,  and after the base optimizer's step w ← w - lr k (h - g)

    Rho:
        as SAM.

    Args:
        k: With plain SGD 1 is SAM; our choice. WSAM has k = γ/(1-γ), at its γ = .9 that is 9.

    Cost:
        2 gradients.

    Memory:
        g and k (h - g), beside h.

    Evidence:
        Authors only.

    Source:
        Yue et al., Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization
        Term, KDD 2023.

    Example:
        >>> decoupled(9).combine
        Decoupled(k=9.0)
    """
    return Method(combine=Decoupled(k))


def stable() -> Method:
    """SAM's gradient, brought to the length of the gradient here (StableSAM).

    Formula:
        ε = ρ g / ‖g‖,  u = (‖g‖ / ‖h‖) h

    Rho:
        as SAM.

    Cost:
        2 gradients.

    Memory:
        g, beside h.

    Evidence:
        Authors only: more learning rates are stable.

    Source:
        Tan et al., Stabilizing Sharpness-Aware Minimization through a Simple Renormalization
        Strategy, JMLR 2025.

    Example:
        >>> stable().combine
        Rescaled()
    """
    return Method(combine=Rescaled())


def spherical(alpha: float = 1.5) -> Method:
    """SAM's gradient, turned further away from the gradient here (XSAM at a fixed α).

    Formula:
        ε = ρ g / ‖g‖,  u = ‖h‖ (sin((1-α)θ) g/‖g‖ + sin(αθ) h/‖h‖) / sin θ,  θ between g and h

    Rho:
        .15 (authors).

    Args:
        alpha: α, from 0 to 2; 1 is SAM, 1.5 our choice. The authors search for it once an epoch.

    Cost:
        2 gradients.

    Memory:
        g, beside h.

    Evidence:
        Authors only, with the search: 16.50 % error for 17.05 % on CIFAR-100.

    Source:
        XSAM, ICLR 2026 (arXiv 2603.10048).

    Example:
        >>> spherical(2).combine
        Spherical(alpha=2.0)
    """
    return Method(combine=Spherical(alpha))
