"""Strongly convex losses with known curvatures, and the claim made with them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Bowls, LateMaximum, Problem, RandomBowls, RandomSums, simulate
from thalweg.lab.claims import convex_floors as floors
from thalweg.lab.claims.convex import CLAIM

SEEDS = torch.tensor([0, 3, 3, 7])
FAMILIES = {
    "bowls": Bowls([[4.0, 1.0, 2.0], [3.0, 3.0, 0.5]]),
    "log cosh": RandomSums("log_cosh", alpha=0.3, beta=2.0, dimension=3, terms=4),
    "cos": RandomSums("cos", beta=5.0),
    "random bowls": RandomBowls(1.0, 10.0),
}


def at_random(problem, seeds=SEEDS):
    w = problem.start(seeds)["w"]
    return {"w": w + torch.randn(w.shape, generator=torch.Generator().manual_seed(1)).double()}


def hessians(problem, seeds, w):
    batch = problem.stream(seeds)(0)
    slope = torch.autograd.functional.jacobian(
        lambda x: problem.gradient({"w": x}, batch)["w"].sum(0), w
    )
    return slope.transpose(0, 1)


@pytest.mark.parametrize("problem", FAMILIES.values(), ids=list(FAMILIES))
def test_gradients_against_differentiation(problem):
    w, batch = at_random(problem), problem.stream(SEEDS)(0)
    expected = Problem.gradient(problem, w, batch)["w"]
    torch.testing.assert_close(problem.gradient(w, batch)["w"], expected, rtol=1e-12, atol=1e-13)
    assert expected.abs().min() > 1e-6


@pytest.mark.parametrize("problem", FAMILIES.values(), ids=list(FAMILIES))
def test_a_seed_has_one_loss_and_one_start_whoever_else_is_there(problem):
    alone = torch.tensor([3])
    w = problem.start(SEEDS)["w"]
    assert torch.equal(w[1], w[2])
    assert not torch.equal(w[1], w[3])
    assert torch.equal(problem.start(alone)["w"][0], w[1])
    together = problem.observe({"w": w}, SEEDS)
    for name, value in problem.observe({"w": w[1:2]}, alone).items():
        torch.testing.assert_close(value[0], together[name][1], rtol=1e-9, atol=1e-12)


def test_random_sums_are_the_literal_formula():
    for problem in (FAMILIES["log cosh"], FAMILIES["cos"]):
        w, terms = at_random(problem), problem.terms(SEEDS)
        found = problem.loss(w, terms)
        for b, point in enumerate(w["w"].numpy()):
            value = 0.5 * problem.alpha * point @ point
            for j in range(problem.count):
                u, at, k, c = (part[b, j].numpy() for part in terms)
                z = k * (u @ point - at)
                phi = math.cos(z) if problem.link == "cos" else math.log(math.cosh(z))
                value += c / k**2 * phi
            assert float(found[b]) == pytest.approx(value, rel=1e-12)


def test_log_cosh_has_its_digits_near_0_where_steep_terms_need_them():
    # cosh z - 1 = 2 sinh(z/2)^2; log cosh z = z^2/2 - z^4/12 + ..., and |z| - log 2 far away.
    problem = FAMILIES["log cosh"]
    terms = problem.terms(SEEDS[:1])._replace(
        along=torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64),
        at=torch.zeros(1, 1, dtype=torch.float64),
        bend=torch.full((1, 1), 1e-4, dtype=torch.float64),
        weight=torch.ones(1, 1, dtype=torch.float64),
    )
    for x, expected in ((1e-3, 0.5e-6), (1.0, 0.5), (1e9, 1e8 * (1e5 - math.log(2)))):
        w = torch.tensor([[x, 0.0, 0.0]], dtype=torch.float64)
        bowl = 0.5 * problem.alpha * x * x
        assert float(problem.loss({"w": w}, terms)) - bowl == pytest.approx(expected, rel=3e-9)
    found = RandomSums(alpha=0.0).loss({"w": torch.tensor([[1e-3, 0.0, 0.0]]).double()}, terms)
    assert float(found) == pytest.approx(0.5e-6, rel=1e-13)


def test_the_curvatures_of_random_sums_fill_their_range_and_no_more():
    seeds = torch.arange(40)
    for problem in (FAMILIES["log cosh"], RandomBowls(1.0, 10.0), FAMILIES["cos"]):
        convex = problem.link == "log_cosh"
        low = problem.alpha if convex else -problem.beta
        for scale in (0.1, 1.0, 10.0):
            w = scale * at_random(problem, seeds)["w"]
            values = torch.linalg.eigvalsh(hessians(problem, seeds, w))
            assert values.max() <= problem.beta * (1 + 1e-12)
            assert values.min() >= low - 1e-12
        if convex:
            # At the common offset of the terms the top curvature is beta itself, far away alpha.
            terms = problem.terms(seeds)
            centre = torch.linalg.lstsq(terms.along, terms.at.unsqueeze(-1)).solution.squeeze(-1)
            top = torch.linalg.eigvalsh(hessians(problem, seeds, centre))[:, -1]
            torch.testing.assert_close(top, torch.full_like(top, problem.beta))
            far = torch.linalg.eigvalsh(hessians(problem, seeds, 1e4 * w))
            assert far.median() == pytest.approx(problem.alpha, rel=1e-6)


def test_the_minimum_of_random_bowls_is_one():
    problem = RandomBowls(1.0, 10.0, dimension=3, terms=5)
    seeds = torch.arange(30)
    where, value = problem.minimum(seeds)
    assert problem.gradient({"w": where}, problem.terms(seeds))["w"].abs().max() < 1e-12
    seen = problem.observe({"w": where + 0.01}, seeds)
    assert (seen["excess"] > 0).all()
    torch.testing.assert_close(seen["distance"], torch.full_like(value, 0.01 * 3**0.5))


def test_bowls_take_their_spectra_in_turn():
    problem = Bowls([[4.0, 1.0], [2.0, 2.0]])
    seen = problem.observe({"w": torch.ones(3, 2, dtype=torch.float64)}, torch.tensor([0, 1, 4]))
    assert seen["excess"].tolist() == [2.5, 2.0, 2.5]


def test_late_maximum_counts_from_its_step_on():
    watch = {f"{s}": LateMaximum("distance", since=s) for s in (0, 1, 3, 9)}
    seen = simulate(
        Bowls([[1.0]]), eta=0.5, steps=8, observe={**watch, "7": LateMaximum("distance", 7, 3)}
    ).observed
    first = float(seen["0"])
    assert float(seen["1"]) == first / 2
    assert float(seen["3"]) == first / 8
    assert float(seen["7"]) == first / 128
    assert np.isnan(seen["9"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bowls([[1.0], [1.0, 2.0]]), "spectra must be lists of positive numbers"),
        (lambda: Bowls([[0.0]]), "spectra must be lists of positive numbers"),
        (lambda: Bowls([[math.inf]]), "spectra must be lists of positive numbers"),
        (lambda: Bowls([]), "spectra must be lists of positive numbers"),
        (lambda: RandomSums("tanh"), 'link must be "log_cosh" or "cos"'),
        (lambda: RandomSums(alpha=1.0, beta=1.0), "beta must be"),
        (lambda: RandomSums(dimension=0), "dimension must be"),
        (lambda: RandomSums(terms=0), "terms must be"),
        (lambda: RandomBowls(alpha=0.0), "alpha must be"),
        (lambda: LateMaximum("distance", since=-1), "since must be"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ThalwegError, match=message):
        make()


def test_the_counterexample_to_the_form_for_small_steps():
    small = {"starts": 1, "losses": 4, "products": [1.6, 1.822], "rho": [0.1], "powers": [1.0]}
    settings = {**CLAIM.settings, **small, "steps": 600, "late": 70}
    quadratics, random = (floors.ends(settings, f) for f in ("quadratics", "random losses"))
    above, _ = floors.beyond_small_steps(settings, quadratics, random)
    assert above.holds is True
    assert "the floor is 5.239, the form 5.118" in above.predicted
    assert above.measured.startswith("5.239 is attained")
    # Ends at half the height would not refute it.
    low = dataclasses.replace(quadratics, excess=quadratics.excess / 2)
    assert floors.beyond_small_steps(settings, low, random)[0].holds is False
