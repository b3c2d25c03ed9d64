"""Matrix sensing: gradient, Hessian and trace against formulas written out and differentiation."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import MatrixSensing, Problem, simulate
from thalweg.lab.claims.sensing import _truth
from thalweg.lab.claims.sensing_floor import Floor
from thalweg.lab.groups import Groups

#: Not sorted, not as often each, with gaps: as the cells of a grid are once some have diverged.
SEEDS = torch.tensor([3, 1, 3, 3, 0, 1])
PROBLEM = MatrixSensing(d=5, rank=2, measurements=8)


def points():
    draw = torch.Generator().manual_seed(0)
    return {"U": torch.randn(len(SEEDS), 5, 5, generator=draw, dtype=torch.float64)}


def written_out(u, seed, problem=PROBLEM):
    a, truth = problem.instance(seed)
    terms = [(torch.trace(a_i @ u @ u.T) - torch.trace(a_i @ truth)) ** 2 for a_i in a]
    return sum(terms) / (4 * len(a))


def test_the_loss_is_the_formula():
    expected = [
        float(written_out(u, s)) for u, s in zip(points()["U"], SEEDS.tolist(), strict=True)
    ]
    assert PROBLEM.loss(points(), PROBLEM.measure(SEEDS)).tolist() == pytest.approx(expected, 1e-12)
    assert PROBLEM.final_loss(points(), SEEDS).tolist() == pytest.approx(expected, 1e-12)


def test_the_gradient_against_differentiation():
    batch = PROBLEM.stream(SEEDS)(7)
    found = PROBLEM.gradient(points(), batch)["U"]
    same = Problem.gradient(PROBLEM, points(), batch)["U"]
    torch.testing.assert_close(found, same, rtol=1e-12, atol=1e-12)
    for u, seed, gradient in zip(points()["U"], SEEDS.tolist(), found, strict=True):
        leaf = u.clone().requires_grad_()
        (expected,) = torch.autograd.grad(written_out(leaf, seed), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_hessian_and_trace_against_differentiation():
    found, seen = PROBLEM.hessian(points(), SEEDS), PROBLEM.observe(points(), SEEDS)
    for i, (u, seed) in enumerate(zip(points()["U"], SEEDS.tolist(), strict=True)):
        dense = torch.autograd.functional.hessian(lambda v, s=seed: written_out(v, s), u)
        dense = dense.reshape(25, 25)
        torch.testing.assert_close(found[i], dense, rtol=1e-11, atol=1e-11)
        assert float(seen["trace"][i]) == pytest.approx(float(dense.trace()), 1e-12)


def test_the_rest_of_what_is_observed():
    seen, start = PROBLEM.observe(points(), SEEDS), PROBLEM.start(SEEDS)["U"]
    for i, (u, seed) in enumerate(zip(points()["U"], SEEDS.tolist(), strict=True)):
        error = ((u @ u.T - PROBLEM.instance(seed).truth) ** 2).sum()
        assert float(seen["test_error"][i]) == pytest.approx(float(error), 1e-12)
        assert float(seen["moved"][i]) == pytest.approx(float((u - start[i]).norm()), 1e-12)


def test_what_a_seed_draws():
    a, truth = MatrixSensing().instance(4)
    assert a.shape == (100, 20, 20)
    assert torch.equal(a, a.mT)
    assert float(a.diagonal(dim1=1, dim2=2).var()) == pytest.approx(1, rel=0.1)
    assert float(a[:, 0, 1:].var()) == pytest.approx(0.5, rel=0.15)
    assert torch.linalg.matrix_rank(truth) == 2
    starts = MatrixSensing().start(torch.tensor([4, 5, 4]))["U"]
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])
    assert float(starts[0].square().sum()) == pytest.approx(20, rel=0.2)


def test_the_truth_is_a_minimum_and_its_trace_is_known():
    truth = torch.stack([PROBLEM.instance(s).truth for s in (0, 1)])
    values, vectors = torch.linalg.eigh(truth)
    root = {"U": vectors * values.clamp(min=0).sqrt()[:, None, :]}
    assert PROBLEM.final_loss(root, torch.tensor([0, 1])).tolist() == pytest.approx([0, 0])
    trace = torch.linalg.eigvalsh(PROBLEM.hessian(root, torch.tensor([0, 1]))).sum(1)
    assert _truth(PROBLEM, np.array([0, 1])).tolist() == pytest.approx(trace.tolist(), 1e-12)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_cells_keep_to_themselves(order):
    # Seeds 0 and 1 at two radii each, in any order of the cells; one alone goes the same way.
    seeds, rho = np.array([0, 1, 0, 1])[order], np.array([0.1, 0.1, 0.3, 0.3])[order]
    together = simulate(PROBLEM, eta=0.02, rho=rho, seed=seeds, steps=60).final["U"]
    for i in range(4):
        alone = simulate(PROBLEM, eta=0.02, rho=rho[i], seed=seeds[i], steps=60)
        np.testing.assert_allclose(together[i], alone.final["U"], rtol=1e-9, atol=1e-12)


def test_a_cell_that_diverges_leaves_the_others_in_peace():
    run = simulate(PROBLEM, eta=0.02, rho=[0.1, 50.0, 0.1], seed=[0, 0, 1], steps=300)
    assert run.diverged.tolist() == [False, True, False]
    alone = simulate(PROBLEM, eta=0.02, rho=0.1, seed=1, steps=300)
    np.testing.assert_allclose(run.final["U"][2], alone.final["U"], rtol=1e-6, atol=1e-9)


def test_it_starts_where_told():
    starts = np.random.default_rng(0).normal(size=(2, 5, 5))
    problem = MatrixSensing(5, 2, 8, starts=starts)
    assert problem.start(torch.tensor([1, 0]))["U"].tolist() == starts[[1, 0]].tolist()
    noisy = MatrixSensing(5, 2, 8, starts=starts, noise=1e-3).start(torch.tensor([1]))["U"]
    assert float((noisy - torch.tensor(starts[1:])).std()) == pytest.approx(1e-3, rel=0.5)
    with pytest.raises(ThalwegError, match="number of a start, from 0 to 1, got 2"):
        problem.start(torch.tensor([2]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"d": 0}, "d must be a whole number >= 1"),
        ({"rank": 0}, "rank must be a whole number >= 1"),
        ({"d": 3, "rank": 4}, "rank must be at most d=3, got 4"),
        ({"measurements": 1.5}, "measurements must be a whole number"),
        ({"noise": -1}, "noise must be a finite number >= 0"),
        ({"starts": [[1.0]]}, r"starts must be finite numbers of shape \(seeds, 20, 20\)"),
        ({"starts": "here"}, "starts must be finite numbers"),
        ({"starts": np.full((1, 20, 20), np.nan)}, "starts must be finite numbers"),
    ],
)
def test_bad_input(options, told):
    with pytest.raises(ThalwegError, match=told):
        MatrixSensing(**options)


@pytest.mark.parametrize("seeds", [[7, 3, 7], [0], [2, 2, 2], [1, 0, 1, 0], [5, 4, 3, 3]])
def test_groups(seeds):
    groups = Groups.of(torch.tensor(seeds))
    assert groups.seeds.tolist() == sorted(set(seeds))
    for seed, cells in zip(groups.seeds.tolist(), groups.cells.tolist(), strict=True):
        assert {seeds[c] for c in cells} == {seed}
    assert groups.cells.flatten()[groups.slots].tolist() == list(range(len(seeds)))
    # There and back again.
    value = torch.arange(len(seeds) * 3).view(len(seeds), 3)
    columns = torch.tensor([2, 0])
    there = value.flatten()[groups.entries(columns, 3)]
    back = there[groups.back(torch.arange(2), 2)].view(len(seeds), 2)
    assert torch.equal(back, value[:, columns])


def test_the_drift_law_of_the_trace_against_differences():
    task = {"d": 6, "rank": 1, "measurements": 10}
    settle = simulate(MatrixSensing(**task), eta=0.05, seed=[0, 1], steps=20_000)
    minima = settle.final["U"]
    floor = Floor({"task": task, "eta": 0.05, "noise": 0.0}, minima)
    # Late, only flat directions still move; at once, all do.
    laws = zip(floor.law(minima, 10**7, 2 * 10**7), floor.law(minima, 0, 1), strict=True)
    for seed, (matrix, (late, at_once)) in enumerate(zip(minima, laws, strict=True)):
        problem, at = MatrixSensing(**task), torch.tensor([seed])

        def top(v, problem=problem, at=at):
            u = {"U": torch.tensor(v).view(1, 6, 6)}
            return float(torch.linalg.eigvalsh(problem.hessian(u, at))[0, -1])

        def trace(v, problem=problem, at=at):
            return float(problem.observe({"U": torch.tensor(v).view(1, 6, 6)}, at)["trace"])

        v, h = matrix.flatten(), 1e-5
        unit = np.eye(len(v)) * h
        up = np.array([(top(v + e) - top(v - e)) / (2 * h) for e in unit])
        along = np.array([(trace(v + e) - trace(v - e)) / (2 * h) for e in unit])
        a = problem.instance(seed).a.numpy()
        slopes = (a @ matrix).reshape(len(a), -1)
        across = np.linalg.pinv(slopes) @ slopes
        speed = -0.5 * 0.05 * (2 / (2 - 0.05 * top(v))) ** 2
        assert late == pytest.approx(speed * along @ (up - across @ up), rel=1e-4)
        assert at_once == pytest.approx(speed * along @ up, rel=0.2)
        assert abs(at_once / late - 1) > 0.01
