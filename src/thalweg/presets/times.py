"""Presets that perturb at some steps only."""

from __future__ import annotations

from thalweg.ascent import L2, Across, Adaptive, Every, FanRatio, Method, Random, Window
from thalweg.errors import number, whole
from thalweg.presets.lengths import micro_batch


def look_back(k: int = 5, alpha: float = 0.7) -> Method:
    """SAM at every k-th step; between, its part across g is used again (LookSAM).

    Formula:
        every k-th step: u = h, g_v = h - (<g, h> / ‖g‖²) g;  else u = g + α (‖g‖ / ‖g_v‖) g_v

    Rho:
        as SAM.

    Args:
        k: From one ascent to the next; ports take 10.
        alpha: α; .7 is the default of ports. 0 leaves the plain gradient in between.

    Cost:
        1 + 1/k gradients.

    Memory:
        g_v.

    Evidence:
        Authors only: vision transformers with batches of 32 thousand. Ports take norms and products
        of every tensor by itself; here they are those of all parameters, as in the paper.

    Source:
        LookSAM: Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR 2022.

    Example:
        >>> [look_back(3).gate(step) for step in range(4)]
        [True, False, False, True]
    """
    return Method(gate=Every(k), reuse=Across(alpha))


def random_gate(probability: float = 0.5, seed: int = 0) -> Method:
    """SAM at steps chosen by chance (SS-SAM, RST).

    Formula:
        with probability P: ε = ρ g / ‖g‖, u = h;  else u = g

    Rho:
        as SAM.

    Args:
        probability: P; .5 as the authors, who also let it change in a straight line.
        seed: The draw belongs to it and the step; every rank draws the same.

    Cost:
        1 + P gradients.

    Memory:
        nothing more.

    Evidence:
        Authors only; with a mix of g and h above SAM in most cases.

    Source:
        Zhao, Zhang and Hu, SS-SAM: Stochastic Scheduled Sharpness-Aware Minimization for
        Efficiently Training Deep Neural Networks, 2022.

    Example:
        >>> random_gate(0.25).gate.probability
        0.25
    """
    return Method(gate=Random(probability, seed))


def adaptive_gate(total: int, early: float = 1.0, late: float = -1.0, decay: float = 0.9) -> Method:
    """SAM where the gradient is large among the latest ones (AE-SAM).

    Formula:
        ε = ρ g / ‖g‖, u = h where ‖g‖² ≥ μ + c σ, of the running mean μ and deviation σ of ‖g‖²,
        c from c₀ to c₁ in a straight line;  else u = g

    Rho:
        as SAM.

    Args:
        total: How many steps training has: loops over ``sam.passes()``.
        early: c₀; 1: few steps are perturbed at first.
        late: c₁; -1: nearly all are at last.
        decay: Of the running mean and variance.

    Cost:
        1 + s gradients, s being the share of open steps; the norm is read at every step.

    Memory:
        two numbers.

    Evidence:
        Authors only; others have it as a baseline.

    Source:
        Jiang et al., An Adaptive Policy to Employ Sharpness-Aware Minimization, ICLR 2023.

    Example:
        >>> adaptive_gate(1000).gate.steps
        1000
    """
    total = whole("total", total, at_least=1)
    return Method(gate=Adaptive(total, early, late, decay))


def late(total: int, share: float = 0.25) -> Method:
    """SAM in the last part of training alone.

    Formula:
        ε = ρ g / ‖g‖, u = h in the last share of the steps;  before it u = g

    Rho:
        as SAM; .05 with AdamW (second source).

    Args:
        total: How many steps training has, which are loops over ``sam.passes()``: with one for
            every micro-batch there are more than the base optimizer takes. What comes after them is
            perturbed, too.
        share: Of the steps, the last how many; a quarter is our choice.

    Cost:
        1 + share gradients.

    Memory:
        nothing more.

    Evidence:
        Two independent groups agree: a late or middle part, of 5 to 15 % in the first paper, is
        worth about all of SAM. One field report is against it.

    Source:
        Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in Training, ICLR 2025
        (arXiv 2410.10373); in the middle of training: ICML 2026 (arXiv 2605.02105).

    Example:
        >>> [late(4).gate(step) for step in range(4)]
        [False, False, False, True]
    """
    share = number("share", share, above=0, at_most=1)
    total = whole("total", total, at_least=1)
    return Method(gate=Window(total - max(1, round(share * total))))


def warm_start(first: int) -> Method:
    """SAM after some plain steps.

    Formula:
        u = g in the first steps;  after them ε = ρ g / ‖g‖, u = h

    Rho:
        as SAM; it depends less on it (authors).

    Args:
        first: How many steps, loops over ``sam.passes()``, are plain; a short part of training.

    Cost:
        2 gradients after the first steps, 1 in them.

    Memory:
        nothing more.

    Evidence:
        Authors only: SAM with a large ρ can stall where h = 0 and g is not; this cures it.

    Source:
        arXiv 2509.21818, 2025.

    Example:
        >>> [warm_start(2).gate(step) for step in range(4)]
        [False, False, True, True]
    """
    return Method(gate=Window(whole("first", first)))


def modern(total: int, share: float = 0.25, m: float = 1.0, m_ref: float = 1.0) -> Method:
    """Three parts together, to be measured: `spectral_radius`, `late` and `micro_batch`.

    Formula:
        ε_l = ρ √(m / m_ref) r_l g_l / ‖g_l‖ of every tensor, u = h in the last share of the steps;
        before it u = g;  r_l = √(fan_out / fan_in)

    Rho:
        that of `spectral_radius`, chosen at m_ref; as there, leave out tables of embeddings.

    Args:
        total: How many steps training has: loops over ``sam.passes()``, of which m-SAM has several
            to a step of the base optimizer.
        share: Of the steps, the last how many.
        m: Examples per ascent.
        m_ref: Examples per ascent that ρ was chosen for.

    Cost:
        1 + share gradients.

    Memory:
        ε itself.

    Evidence:
        None known to us for all together: see the parts.

    Source:
        Put together here.

    Example:
        >>> modern(1000).gate
        Window(start=750, end=None)
    """
    ball = L2(scale=FanRatio(), over="tensor")
    return Method(ball=ball, gate=late(total, share).gate, schedule=micro_batch(m, m_ref).schedule)
