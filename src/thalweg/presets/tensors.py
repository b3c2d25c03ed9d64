"""Presets that move every tensor by itself, so that none is left out."""

from __future__ import annotations

from thalweg.ascent import L2, FanRatio, Method, Nuclear, Spectral, Trust


def per_tensor() -> Method:
    """SAM for every tensor by itself: none is left out because its gradient is small.

    Formula:
        ε_l = ρ g_l / ‖g_l‖ of every tensor l,  u = h

    Rho:
        that of SAM / √(number of tensors) makes ε as long as SAM's.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        None known to us.

    Source:
        A choice of ball; the penalty is ρ Σ ‖g_l‖ in the place of ρ ‖g‖.

    Example:
        >>> per_tensor().ball.over
        'tensor'
    """
    return Method(ball=L2(over="tensor"))


def spectral_radius() -> Method:
    """Every tensor by itself, with the radius that keeps what it does to the output, at any width.

    Formula:
        ε_l = ρ r_l g_l / ‖g_l‖,  u = h;  r_l = √(fan_out / fan_in)

    Rho:
        meant as one for all widths; no published value. The table of an embedding is taken as it
        lies, its words as outputs: 50257 words of 768 numbers have r = 8.1 where by the theory it
        is √768 = 27.7, and it grows with the vocabulary. Leave tables out by a filter, or give
        the numbers by `Radii`.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only, for training with μP²: the best (lr, ρ) stays the best as the width grows.
        Here the claim `width` finds that every layer's effect stays, but not that the best ρ does.

    Source:
        After Haas et al., μP²: Effective Sharpness Aware Minimization Requires Layerwise
        Perturbation Scaling, NeurIPS 2024, which scales the direction before one norm is taken.

    Example:
        >>> spectral_radius().ball.scale
        FanRatio()
    """
    return Method(ball=L2(scale=FanRatio(), over="tensor"))


def trust_ratio() -> Method:
    """Every tensor by itself, in proportion to its own length, as LARS steps.

    Formula:
        ε_l = ρ ‖w_l‖ g_l / ‖g_l‖,  u = h

    Rho:
        a share of every tensor's length.

    Cost:
        2 gradients.

    Memory:
        ε itself.

    Evidence:
        Authors only: vision transformers with batches of 32 to 64 thousand.

    Source:
        Every step of the layerwise form in Liu et al., Towards Efficient and Scalable
        Sharpness-Aware Minimization, CVPR 2022, as we understand it.

    Example:
        >>> trust_ratio().ball.scale
        Trust()
    """
    return Method(ball=L2(scale=Trust(), over="tensor"))


def spectral_ball() -> Method:
    """Every matrix moves in all directions alike, as Muon steps.

    Formula:
        ε_l = ρ r_l U Vᵀ, of the gradient g_l = U Σ Vᵀ of every tensor,  u = h

    Rho:
        every singular value of ε_l over r_l = √(fan_out / fan_in); no published value. Of tables of
        embeddings, see `spectral_radius`.

    Cost:
        2 gradients, and polar factors.

    Memory:
        ε itself.

    Evidence:
        None known to us for SAM: an experiment.

    Source:
        A choice of ball; the penalty is ρ Σ r_l times the sum of the singular values of g_l.

    Example:
        >>> spectral_ball().ball.over
        'tensor'
    """
    return Method(ball=Spectral(scale=FanRatio()))


def nuclear() -> Method:
    """Every matrix moves along its first pair of singular vectors: ε has a rank of one.

    Formula:
        ε_l = ρ u₁ v₁ᵀ, of the gradient g_l = Σ σ_i u_i v_iᵀ of every tensor,  u = h

    Rho:
        the largest singular value of every ε_l; no default known to us.

    Cost:
        2 gradients, and singular vectors.

    Memory:
        ε itself; that it has rank one is not made use of.

    Evidence:
        Authors only: about as good as SAM on transformers, better on an MLP-Mixer.

    Source:
        Pethick et al., νSAM: Memory-Efficient Sharpness-Aware Minimization via Nuclear Norm
        Constraints, TMLR 2025.

    Example:
        >>> nuclear().ball
        Nuclear(scale=None, over='tensor')
    """
    return Method(ball=Nuclear())
