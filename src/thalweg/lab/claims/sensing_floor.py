"""Matrix sensing from the minimum of gradient descent: who leaves it, and how fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from thalweg import theory
from thalweg.lab.claims.claim import Settings
from thalweg.lab.observe import FirstPassage, History, Maximum
from thalweg.lab.problems import Params
from thalweg.lab.sensing import MatrixSensing
from thalweg.lab.simulate import simulate
from thalweg.lab.statistics import Array, Mean, geometric, mean
from thalweg.results import Axes, Check, Line


class Floor:
    """The minima that gradient descent found, one a seed, and what was measured from there.

    Args:
        settings: Those of the claim.
        minima: Where gradient descent came to rest, (seeds, d, d).
    """

    def __init__(self, settings: Settings, minima: Array) -> None:
        self.settings, self.eta = settings, settings["eta"]
        self.seeds = np.arange(len(minima))
        self.minima = minima
        self.problem = MatrixSensing(**settings["task"], starts=minima, noise=settings["noise"])
        self.curvature = self._top(minima)
        self.edge = theory.largest_stable_rho(self.eta, self.curvature)
        self.runs = 0

    def _top(self, matrices: Array) -> Array:
        """The largest eigenvalue of the Hessian there, (seeds,)."""
        at = torch.tensor(self.seeds), {"U": torch.tensor(matrices)}
        found = torch.linalg.eigvalsh(self.problem.hessian(at[1], at[0]))[:, -1]
        return np.asarray(found.numpy())

    def threshold(self) -> tuple[list[Check], Axes]:
        """USAM on both sides of ρ*: how far it goes, where it settles, when it diverges."""
        shares = np.array([0.0, *self.settings["shares"], self.settings["beyond"]])
        run = simulate(
            self.problem,
            eta=self.eta,
            rho=shares[:, None] * self.edge,
            power=0.0,
            seed=self.seeds[None, :],
            steps=self.settings["threshold_steps"],
            observe={"moved": Maximum("moved", every=10)},
            progress="sensing: USAM's threshold",
        )
        self.runs += run.diverged.size
        moved = run.observed["moved"] / run.observed["moved"][0]
        below = (shares < 1) & (shares > 0)
        above = (shares > 1) & (shares < self.settings["beyond"])
        out = int(np.flatnonzero(above)[-1])
        allowed = theory.edge(self.eta, shares[out] * self.edge, power=0.0)
        settled = self._top(run.final["U"][out]) / allowed
        n = len(self.seeds)
        near, far = shares[below].max(), shares[above].min()
        checks = [
            Check(
                f"from the minimum + noise, USAM at {near:g} ρ*: farthest from its start, over "
                f"gradient descent's own, the largest of {n} seeds",
                "1: it stays",
                f"{moved[below].max():.4g}",
                "below 1.2",
                bool(moved[below].max() < 1.2),
            ),
            Check(
                f"USAM at {far:g} ρ*: the same, the smallest of {n} seeds",
                "it leaves",
                f"{moved[above].min():.3g}",
                "above 1.5",
                bool(moved[above].min() > 1.5),
            ),
            Check(
                f"USAM at {shares[out]:g} ρ*: λ_max where it settles, over that of its edge at "
                f"this ρ (at the start {(self.curvature / allowed).min():.4g} or more)",
                "at most 1, and near it",
                f"{settled.min():.4g} to {settled.max():.4g}, n = {n}",
                "from 0.9 to 1.002 for every seed",
                bool(settled.min() > 0.9 and settled.max() < 1.002),
            ),
            Check(
                f"USAM at {shares[-1]:g} ρ*: diverges",
                "no valley to settle in: not derived",
                f"{int(run.diverged[-1].sum())} of {n} seeds",
                "none",
                None,
                decides=False,
            ),
        ]
        return checks, self._threshold_axes(shares[:-1], moved[:-1])

    def drift(self) -> tuple[list[Check], Axes, float]:
        """SAM at radii far too small to see: the trace falls as the drift law says."""
        radii, steps = np.array(self.settings["rates_rho"]), self.settings["rates_steps"]
        rho = np.array([0.0, *radii, radii[-1]])
        run = simulate(
            self.problem,
            eta=self.eta,
            rho=rho[:, None],
            power=np.array([1.0] * (len(rho) - 1) + [0.0])[:, None],
            seed=self.seeds[None, :],
            steps=steps,
            observe={"trace": History("trace", every=steps // 2)},
            progress="sensing: the speed of the drift",
        )
        self.runs += run.diverged.size
        trace = run.observed["trace"]
        rate = (trace[..., 2] - trace[..., 1]) / (steps - steps // 2)
        rate = rate - rate[0]  # what the noise leaves behind, gradient descent shows alone
        # The law changes on the way: halfway through what was timed it is this mean.
        first, times = self.law(self.minima, steps // 2, steps), radii[:, None] ** 2
        law = np.stack(
            [(first + 3 * self.law(u, steps // 2, steps)) / 4 for u in run.final["U"][1:-1]]
        )
        ratio = rate[1:-1] / (times * law)
        found = mean(ratio.mean(0))
        with np.errstate(divide="ignore", invalid="ignore"):
            usam = float(np.abs(rate[-1] / rate[-2]).max())
        listed = ", ".join(f"{r:g}" for r in radii)
        checks = [
            Check(
                f"SAM at ρ = {listed}: speed at which the Hessian's trace falls, over the drift "
                "law −½ηρ²(2/(2−ηλ))² ⟨∇trace, P∇λ⟩ (of P, directions that come back more slowly "
                "than the run is long are a part)",
                "1, without a free constant",
                f"{found}; single runs {ratio.min():.3g} to {ratio.max():.3g}",
                "the mean within 3 %, single runs within 10 %",
                bool(abs(found.mean - 1) < 0.03 and np.abs(ratio - 1).max() < 0.1),
            ),
            Check(
                f"USAM at ρ = {radii[-1]:g}, below its ρ*: the same speed over SAM's, the largest",
                "0",
                f"{usam:.2g}",
                "below 0.01",
                usam < 0.01,
            ),
        ]
        return checks, self._rate_axes(radii, -rate[1:-1], -law * times), float(found.mean)

    def law(self, matrices: Array, since: int, until: int) -> Array:
        """Return the trace's predicted change per step at ρ = 1, the mean over some steps.

        The minima are a manifold; across it the drift is held back at once. Where the curvature is
        so small that this takes longer than the run, it is held back by 1 − exp(−ηλt).

        Args:
            matrices: Where it is taken, (seeds, d, d).
            since: The first of the steps, counted from the minimum.
            until: The last.
        """
        found = []
        for seed, matrix in zip(self.seeds, matrices, strict=True):
            at, u = torch.tensor([seed]), torch.tensor(matrix)[None].requires_grad_()
            hessian = self.problem.hessian({"U": u}, at)[0]
            values, vectors = torch.linalg.eigh(hessian.detach())
            top = vectors[:, -1]
            (up,) = torch.autograd.grad(top @ hessian @ top, u)
            (along,) = torch.autograd.grad(self.problem.observe({"U": u}, at)["trace"].sum(), u)
            velocity = theory.drift_velocity(
                self.eta, 1.0, float(values[-1]), (vectors.T @ up.flatten()).numpy()
            )
            # Off a minimum, as on the bounce, even flat directions seem to have some curvature.
            across = np.maximum(values.numpy(), 1e-12)
            across[: len(across) - self.problem.m] = 1e-12
            pace = self.eta * across
            left = (np.exp(-pace * since) - np.exp(-pace * until)) / (pace * (until - since))
            found.append(float((vectors.T @ along.flatten()).numpy() @ (left * velocity)))
        return np.array(found)

    def timed(self) -> tuple[list[Check], Axes]:
        """How long SAM takes for a share of the trace: the same number of steps times ρ²."""
        radii = np.array(self.settings["timed_rho"])
        far, near = self.settings["timed_shares"]
        problem = _Share(self.settings, self.minima)
        steps = int(self.settings["timed_budget"] / radii.min() ** 2)
        run = simulate(
            problem,
            eta=self.eta,
            rho=radii[:, None],
            seed=self.seeds[None, :],
            steps=steps,
            observe={
                "far": FirstPassage("share", below=far, every=20),
                "near": FirstPassage("share", below=near, every=20),
                "path": History("share", every=steps // 200),
            },
            progress="sensing: the time of the drift",
        )
        self.runs += run.diverged.size
        # A seed that never came there makes it infinite. One that takes more than half of the time
        # at the first radius leaves none to see another radius take longer.
        far_at, near_at = run.observed["far"], run.observed["near"]
        took = np.where(np.isfinite(near_at), near_at, np.inf) - np.minimum(far_at, 1e300)
        seen = near_at[0] <= steps / 2
        seen |= seen.sum() < 2  # an interval needs two
        took = took[:, seen] * radii[:, None] ** 2
        with np.errstate(invalid="ignore"):
            ratio = took / took[0]
        # Single seeds stray; their geometric mean is what the law speaks of.
        found = [geometric(row) for row in ratio[1:]]
        each = "; ".join(f"ρ = {r:g}: {m}" for r, m in zip(radii[1:], found, strict=True))
        check = Check(
            f"SAM: steps × ρ² from {far:g} to {near:g} of the minimum's trace, over that at ρ = "
            f"{radii[0]:g}, of the same seed",
            "1 (time ∝ 1/ρ²)",
            f"{each}; single seeds {ratio[1:].min():.3g} to {ratio[1:].max():.3g}"
            + (f"; {(~seen).sum()} slower seeds left out" if not seen.all() else ""),
            "interval of the geometric mean within 10 % of 1",
            all(bool(m.low > 0.9 and m.high < 1.1) for m in found),
        )
        return [check], self._path_axes(radii, run.observed["path"], steps)

    def _threshold_axes(self, shares: Array, moved: Array) -> Axes:
        found = geometric(moved)
        return Axes(
            "USAM from the minimum",
            "ρ / ρ*",
            "farthest distance, over gradient descent's",
            [
                _band(shares.tolist(), found, "USAM, p = 0", "p=0"),
                Line([1, 1], [0.9, 1.1 * float(found.high.max())], "ρ*", "theory", dash=True),
            ],
        )

    def _rate_axes(self, radii: Array, rate: Array, law: Array) -> Axes:
        predicted = geometric(law).mean
        return Axes(
            "SAM's speed from the minimum",
            "ρ",
            "fall of the trace per step",
            [
                _band(radii.tolist(), geometric(np.maximum(rate, 1e-300)), "SAM, p = 1", "p=1"),
                Line(radii.tolist(), predicted.tolist(), "drift law", "theory", dash=True),
            ],
            x_log=True,
            y_log=True,
        )

    def _path_axes(self, radii: Array, path: Array, steps: int) -> Axes:
        time = np.arange(path.shape[-1])[None, :] * (steps // 200) * radii[:, None] ** 2
        lines = []
        for i, radius in enumerate(radii):
            # The first as a line, the others as points on it.
            keep = np.flatnonzero(time[i] <= self.settings["timed_budget"])
            keep = keep if i == 0 else keep[:: max(len(keep) // 8, 1)]
            lines.append(
                Line(
                    time[i, keep].tolist(),
                    path[i].mean(0)[keep].tolist(),
                    f"SAM, ρ = {radius:g}",
                    "p=1" if i < 2 else "neutral",
                    points="line" if i == 0 else "points",
                )
            )
        return Axes("One curve in steps × ρ²", "steps × ρ²", "trace, over the minimum's", lines)


class _Share(MatrixSensing):
    """Matrix sensing that watches the trace as a share of the start's."""

    quantities = ("share",)

    def __init__(self, settings: Settings, minima: Array) -> None:
        super().__init__(**settings["task"], starts=minima, noise=settings["noise"])
        seeds = torch.arange(len(minima))
        self.whole = super().observe({"U": torch.tensor(minima)}, seeds)["trace"]

    def observe(self, params: Params, seeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the share."""
        return {"share": super().observe(params, seeds)["trace"] / self.whole[seeds]}


def _band(x: list[float], found: Mean, name: str, role: Any) -> Line:
    return Line(
        x,
        found.mean.tolist(),
        name,
        role,
        points="both",
        low=found.low.tolist(),
        high=found.high.tolist(),
    )
