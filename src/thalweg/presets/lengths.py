"""Presets that tell how long ε is: SAM itself, its powers, and other laws."""

from __future__ import annotations

from thalweg.ascent import Between, Constant, Method, Monge
from thalweg.errors import number
from thalweg.theory import rho_for_microbatch


def sam() -> Method:
    """SAM: the gradient is taken at the end of a step of length ρ uphill.

    Formula:
        ε = ρ g / ‖g‖,  u = h

    Rho:
        .05 is the authors' default.

    Cost:
        2 gradients.

    Memory:
        nothing more.

    Evidence:
        Replicated by many: image classification, fine-tuning of language models. It helps often,
        not always, and users report failures, too.

    Source:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization,
        ICLR 2021.

    Example:
        >>> sam() == Method()
        True
    """
    return Method()


def usam() -> Method:
    """SAM without the normalization: ε shrinks with the gradient.

    Formula:
        ε = ρ g,  u = h

    Rho:
        of its own for every task; ρ‖g‖ is the length.

    Cost:
        2 gradients.

    Memory:
        nothing more.

    Evidence:
        Against it: never the best in the comparison of Oikonomou and Loizou (ICLR 2025), and the
        first to fall as ρ grows. For it: it converges exactly where SAM at a fixed ρ only comes
        near.

    Source:
        Andriushchenko and Flammarion, Towards Understanding Sharpness-Aware Minimization,
        ICML 2022; Dai, Ahn and Sra, The Crucial Role of Normalization in Sharpness-Aware
        Minimization, NeurIPS 2023.

    Example:
        >>> usam().power
        0.0
    """
    return Method(power=0)


def power(p: float = 2.0, max_norm: float | None = None) -> Method:
    """Any normalization: at p = 2, LE-SAM's, ρ is the rise of the loss to first order.

    Formula:
        ε = ρ g / ‖g‖^p, no longer than max_norm,  u = h

    Rho:
        in parameter units times ‖g‖^(p-1); at p = 2 in units of the loss.

    Args:
        p: 0 is USAM, 1 SAM, 2 LE-SAM, which lowers ρ to 0 over the last epochs, too: give the
            method a ``schedule=Cosine(steps, begin=...)``.
        max_norm: Cap on ‖ε‖; ``None`` is 1 above p = 1 (our choice), else no cap.

    Cost:
        2 gradients.

    Memory:
        nothing more.

    Evidence:
        Authors only, for p = 2: images, also where some classes have few examples.

    Source:
        p = 2 with a cap: LE-SAM, ICML 2026 (arXiv 2605.10183).

    Example:
        >>> power(2, max_norm=0.5).cap
        0.5
    """
    return Method(power=number("p", p, at_least=0), max_norm=max_norm)


def unified(share: float | None = None) -> Method:
    """Between USAM and SAM, in a fixed share or from the one to the other.

    Formula:
        ε = ρ (1 - λ + λ / ‖g‖) g,  u = h;  λ = 1 - 1/t in step t = 1, 2, ...

    Rho:
        .1 to .4 (authors).

    Args:
        share: λ, from 0 (USAM) to 1 (SAM); ``None``, the authors' best, for 1 - 1/t.

    Cost:
        2 gradients.

    Memory:
        nothing more.

    Evidence:
        Authors only: CIFAR-10; the gain over SAM is inside the noise, but less depends on ρ.

    Source:
        Oikonomou and Loizou, Sharpness-Aware Minimization: General Analysis and Improved Rates,
        ICLR 2025.

    Example:
        >>> unified(1.0).size(2.0, step=0)
        0.5
    """
    return Method(size=Between(share))


def monge() -> Method:
    """The metric of the loss surface: small gradients are normalized once, large ones twice.

    Formula:
        ε = ρ g / (‖g‖ √(1 + ‖g‖²)),  u = h

    Rho:
        no default of the authors known to us.

    Cost:
        2 gradients.

    Memory:
        nothing more.

    Evidence:
        Authors only: toy problems and fine-tuning on CIFAR; saddles draw it less than SAM.

    Source:
        Jacobsen and Arvanitidis, Monge SAM: Robust Reparameterization-Invariant Sharpness-Aware
        Minimization Based on Loss Geometry, 2025.

    Example:
        >>> round(monge().size(2.0, step=0), 4)
        0.2236
    """
    return Method(size=Monge())


def micro_batch(m: float, m_ref: float, power: float = 1.0) -> Method:
    """SAM for ascents on m examples each, with the ρ chosen for m_ref examples (m-SAM, mSAM).

    Put the loop over micro-batches around ``sam.passes()``. With other micro-batches the same ρ
    would be another penalty: see :func:`thalweg.theory.rho_for_microbatch`, which assumes that
    noise rules the gradients of micro-batches.

    Formula:
        ε = ρ (m / m_ref)^((2-p)/2) g / ‖g‖^p,  u = the mean of h over micro-batches

    Rho:
        that which was chosen at m_ref.

    Args:
        m: Examples per ascent.
        m_ref: Examples per ascent that ρ was chosen for.
        power: The normalization p.

    Cost:
        2 gradients of each example.

    Memory:
        nothing more.

    Evidence:
        Derived here, the rule, for micro-batches whose gradients are mostly noise; the claim
        `microbatch` finds that the best ρ moves as it says, but less far. Replicated is that small
        m helps.

    Source:
        m: Foret et al., Sharpness-Aware Minimization, ICLR 2021. The rule: derived here.

    Example:
        >>> micro_batch(m=16, m_ref=64).schedule(0.1, step=0, lr=0.1)
        0.05
    """
    m, m_ref = number("m", m, above=0), number("m_ref", m_ref, above=0)
    power = number("power", power, at_least=0)
    times = float(rho_for_microbatch(1.0, m_ref, m, power))
    return Method(power=power, schedule=Constant(times))
