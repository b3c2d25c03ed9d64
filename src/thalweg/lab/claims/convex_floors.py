"""Where SAM ends on strongly convex losses, and how fast it comes there: for the claim convex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.convex import Bowls, LateMaximum, RandomBowls
from thalweg.lab.observe import History
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array
from thalweg.results import Axes, Check, Line
from thalweg.results.record import role_of


@dataclass(frozen=True)
class Ends:
    """What iterates come back to, the largest over the losses; arrays (products, radii, powers).

    Attributes:
        excess: Loss above the minimum.
        distance: Distance from it.
        cells: How many runs that took.
    """

    excess: Array
    distance: Array
    cells: int


def problems(settings: Settings) -> dict[str, tuple[Bowls | RandomBowls, int]]:
    """Return the two families, each with the number of its seeds."""
    spectra = [*settings["spectra"].values()]
    alpha, beta = settings["alpha"], settings["beta"]
    return {
        "quadratics": (Bowls(spectra), len(spectra) * settings["starts"]),
        "random losses": (RandomBowls(alpha, beta), settings["losses"]),
    }


def grid(settings: Settings) -> tuple[Array, Array, Array]:
    """Return step sizes, radii and powers, shaped to broadcast against each other."""
    eta = np.array(settings["products"])[:, None, None] / settings["beta"]
    return eta, np.array(settings["rho"])[None, :, None], np.array(settings["powers"])


def ends(settings: Settings, family: str) -> Ends:
    """Run a family to its end over the whole grid."""
    problem, seeds = problems(settings)[family]
    steps = settings["steps"]
    run = simulate(
        problem,
        eta=grid(settings)[0][..., None],
        rho=grid(settings)[1][..., None],
        power=grid(settings)[2][..., None],
        seed=np.arange(seeds),
        steps=steps,
        observe={
            q: LateMaximum(q, every=7, since=steps - settings["late"])
            for q in ("excess", "distance")
        },
        progress=f"convex: {family}",
    )
    seen = {name: value.max(-1) for name, value in run.observed.items()}
    return Ends(seen["excess"], seen["distance"], run.diverged.size)


def floors(settings: Settings, family: str, found: Ends) -> list[Check]:
    """No end above its floor, for every power."""
    alpha, beta = settings["alpha"], settings["beta"]
    eta, rho, power = grid(settings)
    checks = []
    for i, p in enumerate(settings["powers"]):
        near = [
            float((seen / floor(eta, rho, alpha, beta, power))[..., i].max())
            for seen, floor in (
                (found.excess, theory.convex_floor),
                (found.distance, theory.convex_distance_floor),
            )
        ]
        checks.append(
            Check(
                f"{family}, p = {p:g}: largest excess loss and distance at the end, each over its "
                f"floor (n = {found.cells // len(settings['powers'])} runs)",
                predicted="at most 1",
                measured=f"{near[0]:.6g} and {near[1]:.6g}",
                tolerance="rounding, 1e-9",
                holds=max(near) <= 1 + 1e-9,
            )
        )
    return checks


def sharp(settings: Settings, found: Ends) -> list[Check]:
    """The quadratics attain the floors of large steps; that of small steps is too low."""
    alpha, beta = settings["alpha"], settings["beta"]
    eta, rho, power = grid(settings)
    large = eta[:, 0, 0] >= 2 / (alpha + beta)
    floor = theory.convex_floor(eta, rho, alpha, beta, power)
    near = theory.convex_distance_floor(eta, rho, alpha, beta, power)
    checks = []
    for i, p in enumerate(settings["powers"]):
        off = max(
            float(np.abs(seen / bound - 1)[large][..., i].max())
            for seen, bound in ((found.excess, floor), (found.distance, near))
        )
        checks.append(
            Check(
                f"quadratics, p = {p:g}, η ≥ 2/(α+β): excess loss and distance at the end",
                predicted="the floors ½βa² and a themselves, a = (ηρβ²/(2−ηβ))^(1/p)/β",
                measured=f"off by at most {off:.1e} of them",
                tolerance="1e-6 of the prediction",
                holds=off <= 1e-6,
            )
        )
    return checks


def small_step_form(settings: Settings) -> Array:
    """Return ηβ³ρ²/(2α(2−ηβ)), (products, radii): at p = 1 the floor of small steps."""
    eta, rho, _ = grid(settings)
    beta = settings["beta"]
    form: Array = eta * beta**3 * rho**2 / (2 * settings["alpha"] * (2 - eta * beta))
    return form[..., 0]


def beyond_small_steps(settings: Settings, quadratics: Ends, random: Ends) -> list[Check]:
    """That form used beyond small steps: too low for large ones."""
    products, one = np.array(settings["products"]), settings["powers"].index(1.0)
    form, rho = small_step_form(settings), settings["rho"][0]
    crossing = 2 * settings["beta"] / (settings["alpha"] + settings["beta"])
    above, x = products > crossing, settings["counterexample"]
    i = settings["products"].index(x)
    seen = quadratics.excess[..., one]
    predicted = theory.convex_floor(x / settings["beta"], rho, settings["alpha"], settings["beta"])
    open_range = (products > 1) & (products < crossing)
    both = np.maximum(seen, random.excess[..., one])[open_range] / form[open_range]
    what = "p = 1: ηβ³ρ²/(2α(2−ηβ)), the form for small steps, used beyond them"
    return [
        Check(
            f"{what}, at ηβ = {x:g} > 2β/(α+β) = {crossing:.4g}, ρ = {rho:g}",
            predicted=f"too low: the floor is {predicted:.4g}, the form {form[i, 0]:.4g}",
            measured=f"{seen[i, 0]:.4g} is attained; every ηβ above {crossing:.4g} exceeds the form"
            if (seen > form)[above].all()
            else f"{seen[i, 0]:.4g}",
            tolerance="above the form at every such ηβ",
            holds=bool((seen > form)[above].all()),
        ),
        Check(
            f"{what}, at 1 < ηβ < {crossing:.4g}: largest excess over it",
            predicted="none made: neither proved nor refuted there",
            measured=f"{both.max():.4g} times the form",
            tolerance="reported only",
            holds=None,
            decides=False,
        ),
    ]


def nearest(settings: Settings, found: Ends) -> float:
    """Return the largest excess loss at the end over its floor."""
    eta, rho, power = grid(settings)
    floor = theory.convex_floor(eta, rho, settings["alpha"], settings["beta"], power)
    return float((found.excess / floor).max())


def by_step_size(settings: Settings, quadratics: Ends, random: Ends) -> Check:
    """The largest excess of either family at p = 1, step size by step size."""
    alpha, beta, rho = settings["alpha"], settings["beta"], settings["rho"][0]
    one, products = settings["powers"].index(1.0), np.array(settings["products"])
    seen = np.maximum(quadratics.excess, random.excess)[:, 0, one]
    floor = theory.convex_floor(products / beta, rho, alpha, beta)
    return Check(
        f"p = 1, ρ = {rho:g}, ηβ = {_listed(products)}: largest excess at the end",
        predicted=f"at most the floor, {_listed(floor)}",
        measured=_listed(seen),
        tolerance="rounding, 1e-9",
        holds=bool((seen <= floor * (1 + 1e-9)).all()),
    )


def _listed(values: Array) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def small_steps(settings: Settings, random: Ends) -> Check:
    """For small steps the quadratic is not the worst loss, which is why the floor is higher."""
    x, rho = settings["products"][0], settings["rho"][0]
    alpha, beta, eta = settings["alpha"], settings["beta"], x / settings["beta"]
    bounce = 0.5 * beta * theory.bounce_amplitude(eta, rho, beta) ** 2
    worst = random.excess[0, 0, settings["powers"].index(1.0)]
    floor = theory.convex_floor(eta, rho, alpha, beta)
    return Check(
        f"random losses, p = 1, ηβ = {x:g}, ρ = {rho:g}: the largest excess at the end over the "
        f"quadratic's ½βa² (n = {settings['losses']} losses)",
        predicted=f"may be above 1, up to the floor's {floor / bounce:.4g}",
        measured=f"{worst / bounce:.4g}",
        tolerance="above 1: the quadratic is not the worst loss",
        holds=bool(worst > bounce),
    )


def rates(settings: Settings) -> list[Check]:
    """Every step of the way: how the excess over the floors shrinks, against its bound."""
    alpha, beta = settings["alpha"], settings["beta"]
    eta, rho, power = (part[..., None] for part in grid(settings))
    kappa = np.maximum(1 - eta * alpha, eta * beta - 1)
    slope = theory.descent_gradient_norm(eta, rho, beta, power, convex=True)
    floor = {
        "excess": slope**2 / (2 * alpha),
        "distance": (eta * beta**2 * rho / (1 - kappa)) ** (1 / power) / beta,
    }
    bound = {
        "excess": theory.convex_rate(eta, alpha, beta, power),
        "distance": theory.convex_distance_rate(eta, alpha, beta, power),
    }
    worst, steps = dict.fromkeys(floor, 0.0), 0
    for family, (problem, seeds) in problems(settings).items():
        run = simulate(
            problem,
            eta=eta,
            rho=rho,
            power=power,
            seed=np.arange(min(seeds, settings["followed"])),
            steps=settings["way"],
            observe={q: History(q) for q in floor},
            progress=f"convex: the way, {family}",
        )
        for quantity, seen in run.observed.items():
            over = seen - floor[quantity][..., None]
            # Closer to the floor than this, the difference is rounding.
            far = over[..., :-1] > 1e-6 * floor[quantity][..., None]
            ratio = over[..., 1:] / np.where(far, over[..., :-1], np.inf)
            worst[quantity] = max(
                worst[quantity], float((ratio / bound[quantity][..., None]).max())
            )
        steps += run.diverged.size * settings["way"]
    return [
        Check(
            f"a step's factor on the {name} over its floor, over the bound (n = {steps:,} steps)",
            predicted=f"at most 1 (the bound is {law})",
            measured=f"{worst[quantity]:.6g}, the largest",
            tolerance="rounding, 1e-6",
            holds=worst[quantity] <= 1 + 1e-6,
        )
        for quantity, name, law in (
            ("excess", "excess loss", "1 − (α/β)(2−ηβ)·min(p, ηβ)"),
            ("distance", "distance", "1 − p·min(ηα, 2−ηβ)"),
        )
    ]


def axes(settings: Settings, quadratics: Ends, random: Ends) -> list[Axes]:
    """The ends over ηβ beside their floor, in units of ½βa², for every power."""
    alpha, beta, rho = settings["alpha"], settings["beta"], settings["rho"][0]
    products = np.array(settings["products"])
    fine = np.linspace(0.1, 1.97, 200)
    drawn = []
    for i, p in enumerate(settings["powers"]):
        unit, smooth = (
            0.5 * beta * theory.bounce_amplitude(x / beta, rho, beta, p) ** 2
            for x in (products, fine)
        )
        floor = theory.convex_floor(fine / beta, rho, alpha, beta, p) / smooth
        layers = [
            Line(fine.tolist(), floor.tolist(), "floor", "theory", dash=True),
            *_form(settings, fine, smooth, p),
            Line(
                products.tolist(),
                (random.excess[:, 0, i] / unit).tolist(),
                "largest of the random losses",
                "neutral",
                points="both",
            ),
            Line(
                products.tolist(),
                (quadratics.excess[:, 0, i] / unit).tolist(),
                f"quadratics, p = {p:g}",
                role_of(p),
                points="points",
            ),
        ]
        drawn.append(Axes(f"p = {p:g}", "ηβ", "excess loss at the end / ½βa²", layers, y_log=True))
    return drawn


def _form(settings: Settings, fine: Array, unit: Array, power: float) -> list[Line]:
    """The form for small steps, which is about p = 1."""
    if power != 1:
        return []
    form = small_step_form({**settings, "products": fine.tolist()})[:, 0] / unit
    return [Line(fine.tolist(), form.tolist(), "the form for small steps", "neutral", dash=True)]
