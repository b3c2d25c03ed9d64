"""Presets that look in another direction than the gradient's, or at several places."""

from __future__ import annotations

from thalweg.ascent import Gaussian, Method, Momentum, Previous, WithMean
from thalweg.errors import number, whole


def friendly(sigma: float = 1.0, decay: float = 0.9) -> Method:
    """The ascent without what all gradients have in common: up the noise of the batch (F-SAM).

    Formula:
        ε = ρ d / ‖d‖,  d = g - σ m,  m ← β m + (1-β) g, which is 0 at the start,  u = h

    Rho:
        .2 (authors).

    Args:
        sigma: σ; 1 is the authors'.
        decay: β; the authors take .6, .9 and .95.

    Cost:
        2 gradients.

    Memory:
        m and ε.

    Evidence:
        Authors only: their logs on CIFAR-100, with one seed. It takes away what
        `variance_suppressed` keeps, and both are said to gain.

    Source:
        Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024. The authors' code, and ports of
        it, subtract m as it was before this step, and start it at the first gradient: at σ = 1 the
        one is the same direction, the other wears off.

    Example:
        >>> friendly().direction
        WithMean(gradient=1.0, mean=-1.0, decay=0.9)
    """
    return Method(direction=WithMean(gradient=1.0, mean=-number("sigma", sigma), decay=decay))


def variance_suppressed(theta: float = 0.9) -> Method:
    """The ascent along the running mean of the gradients: less noise of the batch (VaSSO).

    Formula:
        ε = ρ d / ‖d‖,  d ← (1-θ) d + θ g, which is 0 at the start,  u = h

    Rho:
        .05 is the default of the released code.

    Args:
        theta: θ, above 0 and below 1; .9 is the default of the released code.

    Cost:
        2 gradients.

    Memory:
        d and ε.

    Evidence:
        Authors only: said to stand noisy labels.

    Source:
        Li and Giannakis, Enhancing Sharpness-Aware Optimization Through Variance Suppression,
        NeurIPS 2023; their code starts d at the first gradient.

    Example:
        >>> variance_suppressed(0.25).direction.decay
        0.75
    """
    theta = number("theta", theta, above=0, below=1)
    return Method(direction=WithMean(gradient=0.0, mean=1.0, decay=1 - theta))


def momentum(key: str = "momentum_buffer") -> Method:
    """The gradient where the momentum leads, in one gradient a step (MSAM).

    Formula:
        ε = -ρ v / ‖v‖, v the base optimizer's momentum, 0 at the first step,  u = h

    Rho:
        .3 is the default of the authors' code; they run it with more.

    Args:
        key: Under which name the base optimizer keeps v; ``"exp_avg"`` for Adam.

    Cost:
        1 gradient.

    Memory:
        ε itself.

    Evidence:
        Authors only: near SAM on CIFAR-100 and ImageNet at the cost of SGD; a field report is bad.

    Source:
        Becker et al., Momentum-SAM: Sharpness Aware Minimization without Computational Overhead,
        2024.

    Example:
        >>> momentum().passes
        1
    """
    return Method(direction=Momentum(key=key))


def previous_gradient() -> Method:
    """The ascent along the gradient of the step before, in one gradient a step (AsyncSAM).

    Formula:
        ε = ρ h' / ‖h'‖, h' the h of the step before, 0 at the first step,  u = h

    Rho:
        as SAM.

    Cost:
        1 gradient.

    Memory:
        h'.

    Evidence:
        Authors only, where another device takes h': near SAM with a vision transformer on
        CIFAR-100.

    Source:
        AsyncSAM, 2025 (arXiv 2503.11147).

    Example:
        >>> previous_gradient().passes
        1
    """
    return Method(direction=Previous())


def gaussian(seed: int = 0, per_filter: bool = True) -> Method:
    """The gradient at a random place near w, in one gradient a step.

    Formula:
        ε = ρ z, z normal, rows of z as long as those of w,  u = h

    Rho:
        the length of ε's rows as a share of w's; without rows, the standard deviation.

    Args:
        seed: Where z comes from, together with the step.
        per_filter: Whether rows of z are as long as those of w.

    Cost:
        1 gradient.

    Memory:
        z, while the step lasts; it is drawn from the seed.

    Evidence:
        Authors only, for the whole method: there u = k h + (1-k) g', with g' of another batch,
        which takes a second gradient and a loop of one's own. Here is the half with h.

    Source:
        Bisla et al., Low-Pass Filtering SGD for Recovering Flat Optima, AISTATS 2022; RWP,
        TMLR 2024, mixes.

    Example:
        >>> gaussian(seed=1).direction
        Gaussian(seed=1, per_filter=True)
    """
    return Method(power=0, direction=Gaussian(seed, per_filter))


def multi_step(k: int = 2) -> Method:
    """Several ascents, each along the gradient where the one before ended.

    Formula:
        ε_i = ε_(i-1) + (ρ/k) g(w + ε_(i-1)) / ‖·‖, i = 1 to k,  u = gradient at w + ε_k

    Rho:
        as SAM: it is shared out.

    Args:
        k: How many ascents.

    Cost:
        1 + k gradients.

    Memory:
        ε itself.

    Evidence:
        Against it: more steps give little, or harm, say those who tried.

    Source:
        Foret et al., ICLR 2021, and Andriushchenko and Flammarion, ICML 2022, try it; Lookbehind,
        ICML 2024, averages over it.

    Example:
        >>> multi_step(3).passes
        4
    """
    return Method(ascents=whole("k", k, at_least=1))


def averaged(points: tuple[float, ...] = (0.5, 1.0)) -> Method:
    """The mean of the gradients at several places on the way uphill.

    Formula:
        ε = ρ g / ‖g‖,  u = the mean over t of the gradients at w + t ε

    Rho:
        as SAM.

    Args:
        points: The t; (1,) is SAM.

    Cost:
        1 + n gradients at n points.

    Memory:
        the sum of the gradients.

    Evidence:
        None known to us.

    Source:
        A choice of points.

    Example:
        >>> averaged().passes
        3
    """
    return Method(points=points)
