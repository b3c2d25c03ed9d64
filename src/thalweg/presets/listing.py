"""What is known of every preset, read from its docstring; and the methods that have none."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from thalweg.ascent import Method
from thalweg.errors import ThalwegError, brief
from thalweg.presets import chosen, directions, lengths, mixes, tensors, times, units

#: In this order they are listed: with evidence or a clear use first.
PRESETS: tuple[Callable[..., Method], ...] = (
    lengths.sam,
    lengths.usam,
    lengths.power,
    lengths.unified,
    units.asam,
    units.asam_all,
    tensors.per_tensor,
    tensors.spectral_radius,
    units.adam_metric,
    chosen.normalization_only,
    lengths.micro_batch,
    mixes.surrogate_gap,
    mixes.mix,
    mixes.stable,
    times.look_back,
    directions.friendly,
    directions.variance_suppressed,
    directions.momentum,
    directions.previous_gradient,
    directions.gaussian,
    times.random_gate,
    times.adaptive_gate,
    times.late,
    times.warm_start,
    times.modern,
    tensors.trust_ratio,
    units.largest_entry,
    units.fisher,
    lengths.monge,
    chosen.sparse,
    mixes.spherical,
    mixes.decoupled,
    tensors.nuclear,
    tensors.spectral_ball,
    directions.multi_step,
    directions.averaged,
)


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a preset.

    Attributes:
        name: Of the function in ``thalweg.presets``.
        summary: One sentence.
        formula: ε, and what the base optimizer gets (u).
        rho: What radius to begin with.
        cost: In gradients a step.
        memory: Beside the copy of the perturbed parameters.
        evidence: Who has found what.
        source: The paper.
        arguments: The meaning of each argument.
        defaults: The default of each that has one.

    Example:
        >>> card("mix").defaults, card("mix").verdict
        ({'k': 0.8}, 'Authors only')
    """

    name: str
    summary: str
    formula: str
    rho: str
    cost: str
    memory: str
    evidence: str
    source: str
    arguments: dict[str, str]
    defaults: dict[str, Any]

    @property
    def gradients(self) -> str:
        """How many gradients a step takes: a number, or a sum of numbers and arguments."""
        return self.cost.partition(" gradient")[0]

    @property
    def verdict(self) -> str:
        """The evidence in a few words: how it begins."""
        return re.split(r"[.,:;]", self.evidence)[0]

    @property
    def call(self) -> str:
        """How it is called, with the defaults."""
        words = ", ".join(
            f"{argument}={self.defaults[argument]!r}" if argument in self.defaults else argument
            for argument in self.arguments
        )
        return f"{self.name}({words})"


def card(name: str) -> Card:
    """Return what is known of a preset.

    Args:
        name: Of the function in ``thalweg.presets``.

    Raises:
        ThalwegError: If there is no preset of that name, or Python runs without docstrings.

    Example:
        >>> card("usam").formula
        'ε = ρ g,  u = h'
    """
    known = {preset.__name__: preset for preset in PRESETS}
    if not isinstance(name, str) or name not in known:
        meant = _meant(name, known) if isinstance(name, str) else ""
        every = f"one of {', '.join(known)}" if not meant else "that of a preset"
        raise ThalwegError(f"the name must be {every}, got {brief(name)}{meant}")
    text = inspect.getdoc(known[name])
    if text is None:
        raise ThalwegError("python must keep docstrings, got -OO: what is known stands there")
    summary, *rest = re.split(r"\n\n(?=[A-Z][a-z]+:\n)", text)
    parts = {head: inspect.cleandoc(body) for head, _, body in (r.partition(":\n") for r in rest)}
    given = inspect.signature(known[name]).parameters
    told = re.split(r"(?m)^(\w+): ", parts.get("Args", ""))[1:]
    return Card(
        name=name,
        summary=summary.partition("\n\n")[0],
        **{
            head.lower(): _line(parts[head])
            for head in ("Formula", "Rho", "Cost", "Memory", "Evidence", "Source")
        },
        arguments={arg: _line(meaning) for arg, meaning in zip(told[::2], told[1::2], strict=True)},
        defaults={k: v.default for k, v in given.items() if v.default is not v.empty},
    )


def _meant(name: str, known: Iterable[str]) -> str:
    """Where a name that no preset has is spoken of, such as the acronym of a paper."""
    exact = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    word = re.compile(exact.pattern, re.IGNORECASE)
    own = [each for each in known if each == name.lower()]
    told = {c.name: f"{c.summary} {c.source}" for c in cards()}
    found = ([n for n in told if spelt.search(told[n])] for spelt in (exact, word))
    named = own or next(filter(None, found), [])
    hints = [f": see {', '.join(named)}"] if named else []
    if not own:
        hints += [f" ({names}: {why})" for names, why in MISSING.items() if word.search(names)]
    return "".join(hints)


def _line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip().replace("``", "`")


def cards() -> tuple[Card, ...]:
    """Return what is known of all presets, those with evidence or a clear use first.

    Example:
        >>> cards()[0].name
        'sam'
    """
    return tuple(card(preset.__name__) for preset in PRESETS)


#: What a Method cannot say, and why.
MISSING: dict[str, str] = {
    "BiSAM, ESAM, K-SAM, RW-SAM, an ascent on a part of the batch": (
        "They choose the loss or the examples of a pass. Your loop does, by here.ascent: see the "
        "recipes."
    ),
    "m-SAM": ("The loop over micro-batches around sam.passes() is yours; micro_batch gives the ρ."),
    "RWP, ARWP, Flat-LoRA": (
        "They mix the gradient at the random place with that of another batch here; gaussian takes "
        "the first alone."
    ),
    "XSAM with its search": (
        "It compares losses along a circle by more forward passes; spherical has a fixed α."
    ),
    "SAMPa": "It trains two coupled sets of weights, on two devices.",
    "Functional-SAM": (
        "It joins the network's Jacobian uphill with the loss's derivative here: it needs the "
        "outputs, not gradients alone."
    ),
    "TSAM, Lebesgue SAM, Focal-SAM": (
        "They weigh several points by their losses, or add a third gradient; averaged weighs alike."
    ),
    "CR-SAM, GAM, Eigen-SAM, X-SAM": "They need products with the Hessian.",
    "Lookbehind": "Its inner loop is multi_step; the average over weights lies outside of a step.",
    "LightSAM, AdaSAM": "Their ε is over a running sum of ‖g‖², and a size sees one step alone.",
    "SAM-Polyak": "It makes the learning rate from values of the loss.",
    "LETS": "It learns ρ from validation data.",
    "Riemannian SAM": "It needs parameters that know their manifold.",
    "SharpZO, ESSAM, ZOSA, ZO-SAM": "They take no gradient, or find the ascent from losses alone.",
    "Bi-LoRA": "Its perturbation is a module that is trained, too.",
    "SAF, MESA": "They are losses: they perturb nothing.",
    "SASSHA, Muon with SAM": "They are base optimizers: choose one, and any Method.",
}
