"""Presets that move some parameters only, or some entries of them."""

from __future__ import annotations

from thalweg.ascent import LargestEntries, Method, Normalization


def normalization_only() -> Method:
    """Gains and biases of normalization layers alone are perturbed (SAM-ON).

    Formula:
        ε = ρ g / ‖g‖ over these parameters, 0 elsewhere,  u = h

    Rho:
        about ten times that of SAM (authors).

    Cost:
        2 gradients.

    Memory:
        less: a copy of these parameters is all.

    Evidence:
        Authors only: above SAM on CIFAR-100, near it on ImageNet; sharpness may even rise.

    Source:
        Mueller et al., Normalization Layers Are All That Sharpness-Aware Minimization Needs,
        NeurIPS 2023.

    Example:
        >>> normalization_only().filter
        Normalization()
    """
    return Method(filter=Normalization())


def sparse(share: float = 0.5) -> Method:
    """The largest entries of the gradient alone are perturbed.

    Formula:
        ε = ρ M g / ‖M g‖,  u = h;  M is 1 where |g| is among the largest of its tensor, else 0

    Rho:
        no default known to us.

    Args:
        share: Of the entries of each tensor, how many move; the authors perturb 5 to 50 %.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only.

    Source:
        After Mi et al., Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation
        Approach, NeurIPS 2022, which chooses by means of g², over all tensors together.

    Example:
        >>> sparse(0.1).mask
        LargestEntries(share=0.1)
    """
    return Method(mask=LargestEntries(share))
