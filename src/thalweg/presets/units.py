"""Presets that measure entries in other units: by their size, by curvature."""

from __future__ import annotations

from thalweg.ascent import L2, AdamMetric, Fisher, LInf, Magnitude, Method


def asam(offset: float = 0.01) -> Method:
    """ASAM, as its authors have it: entries of weights move by their own size, the rest by 1.

    Formula:
        ε = ρ T² g / ‖T g‖,  u = h;  T = |w| + η where the name has "weight" in it, else 1

    Rho:
        .5 is the default of the authors' code; not that of `asam_all`.

    Args:
        offset: η, .01 in the authors' class; their example takes 0.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Replicated with mixed results; adaptive sharpness does not foretell generalization.
        As in the authors' code the name decides: gains of normalization layers are scaled; biases,
        and what is a parameter of a module by itself, such as tokens and embeddings of positions,
        are not. Where names are not known, or none has "weight" in it, matrices are scaled and
        vectors are not.

    Source:
        Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of
        Deep Neural Networks, ICML 2021.

    Example:
        >>> asam().ball.scale.biases
        False
    """
    return Method(ball=L2(scale=Magnitude(offset)))


def asam_all(offset: float = 0.01) -> Method:
    """ASAM, as its most copied port has it: biases are scaled, too.

    Formula:
        ε = ρ T² g / ‖T g‖,  u = h;  T = |w| + η

    Rho:
        2 in that port, where the authors' code takes .5.

    Args:
        offset: η; that port takes 0, which leaves a weight of 0 where it is.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Replicated with mixed results: on CIFAR-10 2.55 % error where the authors' own has 2.37 %.

    Source:
        Kwon et al., ASAM, ICML 2021; the port: github.com/davda54/sam.

    Example:
        >>> asam_all().ball.scale.biases
        True
    """
    return Method(ball=L2(scale=Magnitude(offset, biases=True)))


def largest_entry(offset: float = 0.01, biases: bool = False) -> Method:
    """ASAM in the ball of the largest entry: every entry moves as far as it may.

    Formula:
        ε = ρ T sign(g),  u = h;  T = |w| + η where the name has "weight" in it, else 1

    Rho:
        smaller than that of ASAM: no entry rests.

    Args:
        offset: η; as in `asam`.
        biases: Whether all is scaled, biases, too.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only: a row of the tables of SAM-ON.

    Source:
        Mueller et al., Normalization Layers Are All That Sharpness-Aware Minimization Needs,
        NeurIPS 2023, beside others.

    Example:
        >>> largest_entry().ball.scale.offset
        0.01
    """
    return Method(ball=LInf(scale=Magnitude(offset, biases)))


def adam_metric(floor: float = 1e-8, decay: float | None = None) -> Method:
    """SAM in the metric of Adam, whose second moment is at hand.

    Formula:
        ε = ρ D⁻¹ g / √(gᵀ D⁻¹ g),  u = h;  D = √(v̂ + floor)

    Rho:
        √Σ D ε² is its unit; no published value for this form. In the first step, where there is no
        v̂ yet, D is 1, and ε may be far shorter than after it: give it `warm_start`'s gate.

    Args:
        floor: Added to v̂; our choice.
        decay: β₂; ``None`` for that of the base optimizer, which must be Adam or AdamW.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only, for metrics of this kind: language models up to 1.2 billion parameters.

    Source:
        After Functional-SAM, ICML 2025 (arXiv 2502.02407), and preSAM, 2025 (arXiv 2501.06603).

    Example:
        >>> adam_metric().ball.scale.floor
        1e-08
    """
    return Method(ball=L2(scale=AdamMetric(floor, decay)))


def fisher(floor: float = 1.0) -> Method:
    """SAM in the metric of the empirical Fisher information.

    Formula:
        ε = ρ F⁻¹ g / √(gᵀ F⁻¹ g),  u = h;  F = g² + floor, entry by entry

    Rho:
        no default known to us.

    Args:
        floor: What F is at least; our choice.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only; small gains. g² of one batch is a poor F: `adam_metric` has a mean of it.

    Source:
        Kim et al., Fisher SAM: Information Geometry and Sharpness Aware Minimisation, ICML 2022.

    Example:
        >>> fisher(0.1).ball.scale.floor
        0.1
    """
    return Method(ball=L2(scale=Fisher(floor)))
