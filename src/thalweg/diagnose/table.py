"""A diagnosis as the rows of a table, with a meaning beside every number."""

from __future__ import annotations

import math
from collections.abc import Iterator

from thalweg.diagnose.outlook import finite, same_length, verdict
from thalweg.diagnose.record import Edge, Measured, Row
from thalweg.diagnose.rule import BENT, START, Advice, start_radius

#: λ_max over the edge from which on it is said to be near the edge, and beyond it; and how far from
#: 1 it may be to be at it.
_NEAR, _BEYOND, _AT = 0.8, 1.25, 0.03
#: The share of the eigenvalues that is told of as their bulk, and the share of λ_max below which
#: one may be a 0 that the quadrature has not resolved.
_BULK, _FLAT = 0.99, 0.01


def rows(
    measured: Measured,
    advice: Advice,
    asked: float,
    edges: tuple[Edge, ...],
    changes: dict[str, float],
    power: float,
) -> tuple[Row, ...]:
    """Return the rows of the table.

    Args:
        measured: What was measured.
        advice: The recommendation.
        asked: The rho that the edges are for.
        edges: Of every method.
        changes: What rho would become.
        power: A power whose rho is wanted, too.
    """
    found = [
        Row("Recommended", "rho", _text(advice.rho), f"at power {advice.power:g}{_how(measured)}"),
        *_largest_lr(measured, advice.rho, asked, edges),
        *_equals(measured, advice, power),
    ]
    if asked != advice.rho:
        found.append(Row("Recommended", "asked about", _text(asked), verdict(measured, asked)))
    found += [Row("Along SAM's direction", *row) for row in _along(measured)]
    momentum = f", momentum {measured.base.momentum:g}" if measured.base.momentum else ""
    part = f"Edges at rho = {asked:.3g}{momentum}"
    found += [Row(part, *row) for row in _edges(measured, edges)]
    found += [Row("Measured, in training mode", *row) for row in _measured(measured)]
    found += [Row("What rho would become", *row) for row in _changes(changes)]
    return tuple(found)


def _how(m: Measured) -> str:
    """Which rule was taken, where it is not the first one."""
    if not math.isnan(start_radius(m)):
        return ""
    why = ": the loss before training is not known" if math.isnan(m.start_loss) else ""
    return f", by the cautious rule{why}"


def _largest_lr(m: Measured, rho: float, asked: float, edges: tuple[Edge, ...]) -> Iterator[Row]:
    alone, *_, sam = edges  # as METHODS has them
    if finite(sam.largest_lr):
        at = "" if asked == rho else f"at rho = {asked:.3g}: "
        told = f"{at}now {m.base.lr:g}; above, steps grow (without SAM {_text(alone.largest_lr)})"
        yield Row("Recommended", "largest lr", _text(sam.largest_lr), told)


def _equals(measured: Measured, advice: Advice, power: float) -> Iterator[Row]:
    for p in sorted({0.0, 0.5, power} - {advice.power}):
        rho = same_length(measured, advice.rho, p)
        told = "the same length of ε now"
        if p > 1:
            told += "; near a minimum ε grows without bound: take max_norm= with it"
        yield Row("Recommended", f"rho at power {p:g}", _text(rho), told)


def _measured(m: Measured) -> Iterator[tuple[str, str, str]]:
    many = "batch" if m.batches == 1 else "batches"
    seen = f"over {m.batches} {many} of {m.examples:.4g} examples"
    if m.summed:
        seen = f"a sum, it seems, where the mean is wanted; {seen}"
    yield "parameters", f"{m.parameters:,}", f"‖w‖ = {_text(m.weight_norm)}"
    if m.coarse:
        yield "precision", "wider", f"a copy was measured: the parameters are {m.coarse}"
    spread = "" if math.isnan(m.loss_noise) else f"; ± {_text(m.loss_noise)} among them"
    yield "loss", _text(m.loss), f"{seen}{spread}"
    yield "before training", _text(m.start_loss), _start(m)
    what = "loss as it is summed" if m.summed else "mean loss"
    yield "λ_max", _text(m.lambda_max), f"of the {what}; residual {_text(m.lambda_error)}"
    yield from _spread(m)
    yield "‖g‖", _text(m.grad_norm), f"of one batch; of their mean {_text(m.mean_grad_norm)}"
    if math.isnan(m.noise_scale):
        told = "needs two batches"
    elif math.isinf(m.noise_scale):
        told = "the mean gradient is lost in the noise of these batches"
    elif m.noise_scale > m.examples:
        told = "examples: the gradient of a batch is mostly noise"
    else:
        told = "examples: the gradient of a batch is mostly signal"
    yield "noise scale", _text(m.noise_scale), told
    share = f"{100 * m.largest_share:.0f} %"
    yield "largest share", share, f"of ‖ε‖² falls to {m.largest_name}"


def _start(m: Measured) -> str:
    if math.isnan(m.start_loss):
        return (
            f"{m.start_origin or 'not known'}: pass {START}, the loss of a freshly built model, "
            "about ln V for V classes"
        )
    below = "; it is below the loss of now" if m.start_loss < m.loss else ""
    return (m.start_origin or "the loss, as it was given") + below


def _spread(m: Measured) -> Iterator[tuple[str, str, str]]:
    mean = m.trace / m.parameters
    yield "trace", _text(m.trace), f"± {_text(m.trace_error)}; mean eigenvalue {_text(mean)}"
    bulk = m.spectrum.within(_BULK)
    many = f"λ_max is {_text(m.lambda_max / bulk)} times it" if bulk > 0 else "the rest is 0"
    told = f"{100 * _BULK:g} % are within this of 0; {many}"
    yield "eigenvalues", _text(bulk), told
    share = m.spectrum.below(-_FLAT * abs(m.lambda_max))
    told = f"of them are below -λ_max/{1 / _FLAT:g}"
    yield "negative", f"{100 * share:.2g} %", told


def _along(m: Measured) -> Iterator[tuple[str, str, str]]:
    end, radius = m.scan.rho[-1], start_radius(m)
    untrained = m.upper > radius
    beyond = f"the rise of a batch is off a quadratic's by {100 * BENT:g} %"
    if untrained:
        beyond = "the loss is above that before training"
    below = f"below, lost in {'rounding' if math.isnan(m.loss_noise) else 'batch noise'}"
    if m.lower < m.scan.rho[0]:
        below += f"; scanned from {_text(m.scan.rho[0])}"
    ends = (
        ("lower end", m.lower, below),
        ("upper end", radius if untrained else m.upper, f"above, {beyond}"),
        ("uphill from", m.flip, "there the gradient at w + ε points uphill at w"),
    )
    for name, value, meaning in ends:
        reached = math.isfinite(value)
        yield (
            name,
            _text(value) if reached else f"> {_text(end)}",
            (meaning if reached else "not reached in the scan"),
        )
    yield "λ̂", _text(m.scan.curvature[_near(m)]), "curvature along ε, at the lower end"


def _near(m: Measured) -> int:
    lower = min(m.lower, m.scan.rho[-1])
    return min(range(len(m.scan.rho)), key=lambda i: abs(math.log(m.scan.rho[i] / lower)))


def _edges(m: Measured, edges: tuple[Edge, ...]) -> Iterator[tuple[str, str, str]]:
    if m.base.missing:
        yield m.base.name, "none", m.base.missing
        return
    for one in edges:
        if one.ratio is None:  # only where the formulas do not hold
            continue
        where = "below it" if one.ratio < _NEAR else "near it"
        if one.ratio > _BEYOND:
            where = "beyond it: steps grow"
        elif abs(one.ratio - 1.0) <= _AT:
            where = "at it"
        yield one.method, _text(one.edge), f"λ_max is {one.ratio:.2g} of this edge, {where}"
    by_name = {one.method: one for one in edges}
    largest, title = by_name["USAM"].largest_rho, "USAM's threshold"
    if m.lambda_max <= 0:
        yield title, "none", "the loss bends downwards everywhere: no minimum is near"
    elif largest is None:
        yield title, "none", "the base optimizer itself leaves a minimum of this curvature"
    else:
        meaning = f"the largest rho that it bears; ‖ε‖ = {_text(largest * m.grad_norm)} now"
        yield title, _text(largest), meaning
    for name in ("p = 1/2", "SAM"):
        one = by_name[name]
        if finite(one.bounce):
            radius = "" if one.radius is None else f"; ‖ε‖ = {_text(one.radius)} there"
            meaning = "from a quadratic's minimum"
            yield f"{name}: bounce", _text(one.bounce), meaning + radius


def _changes(changes: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    told = {name: _text(value) for name, value in changes.items()}
    for name in ("batch/4", "batch*4"):
        if name in told:
            meaning = "the noise's penalty kept, to first order in rho"
            yield name.replace("*", " × ").replace("/", " / "), told[name], meaning
    meaning = f"with lr / 4: SAM's stays, USAM's becomes {told['USAM, loss*4']}"
    yield "loss × 4", told["loss*4"], meaning
    first, hidden, last = (told[f"width*4, {layer} layer"] for layer in ("first", "hidden", "last"))
    yield "width × 4", first, f"a first layer's ball; hidden {hidden}, last {last}"


def _text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "none"
    return f"{value:.3g}" if math.isfinite(value) else "∞"
