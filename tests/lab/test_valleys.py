"""The valleys: closed forms against differentiation and by hand, starts, examples."""

import numpy as np
import pytest
import torch

from thalweg import ThalwegError
from thalweg.lab import Bend, Problem, Ripples, TwoCurvatures, Valley, simulate
from thalweg.lab.valleys import curvatures

SEEDS = torch.tensor([0, 1, 1, 7])
DRAW = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


@pytest.mark.parametrize(
    ("problem", "w", "batch"),
    [
        (Valley(), {"x": drawn(50), "y": drawn(50)}, None),
        (Bend(), {"x": drawn(50), "y": drawn(50)}, None),
        (Ripples(), {"x": 3 * drawn(50)}, None),
        (TwoCurvatures(), {"u": drawn(50, 2), "z": drawn(50, 2)}, None),
        (TwoCurvatures(), {"u": drawn(50, 2), "z": drawn(50, 2)}, drawn(50, 2)),
    ],
)
def test_gradients_against_differentiation(problem, w, batch):
    found, expected = problem.gradient(w, batch), Problem.gradient(problem, w, batch)
    assert set(found) == set(expected) == set(w)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-13)


def test_losses_by_hand():
    at = {"x": torch.tensor([0.5, 2.0]), "y": torch.tensor([3.0, -1.0])}
    assert Valley().loss(at).tolist() == [0.5 * 0.25 * 10, 0.5 * 4 * 2]
    assert Bend().loss(at).tolist() == [0.5 * 2.75**2, 0.5 * 25]
    half_pi = {"x": torch.tensor([torch.pi / 2], dtype=torch.float64)}
    assert float(Ripples().loss(half_pi)) == pytest.approx((torch.pi / 2) ** 2 + 3)
    toy = {"u": torch.tensor([[2.0, 3.0]]), "z": torch.tensor([[2.0, 3.0]])}
    first, second = 3 + 1 + 4.5, 1 + 0.3 * 9 + 0.3 * 4
    assert float(TwoCurvatures().loss(toy)) == pytest.approx(4 * first + 9 * second)
    # The examples are twice the terms: the mean of both is the loss.
    only = torch.tensor([[0.0, 2.0]])
    assert float(TwoCurvatures().loss(toy, only)) == pytest.approx(18 * second)


def test_observed_eigenvalues_are_those_of_the_hessian():
    u = drawn(2)

    def loss(w):
        return TwoCurvatures().loss({"u": w[None, :2], "z": w[None, 2:]})[0]

    at = torch.cat([u, torch.zeros(2, dtype=torch.float64)])
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, at))
    seen = TwoCurvatures().observe({"u": u[None], "z": u[None]}, SEEDS[:1])
    assert float(seen["lambda_max"]) == pytest.approx(float(values.max()))
    assert float(seen["trace"]) == pytest.approx(float(values.sum()))
    # The places that the docstring names, against a fine grid.
    grid = torch.cartesian_prod(torch.linspace(0, 1.2, 1201), torch.linspace(-0.2, 1, 1201))
    each = curvatures(grid)
    assert grid[each.amax(-1).argmin()].tolist() == pytest.approx([1, 0], abs=2e-3)
    assert grid[each.sum(-1).argmin()].tolist() == pytest.approx([7 / 13, 3 / 8], abs=2e-3)


def test_one_start_for_all_cells_or_one_for_every_seed():
    assert Valley(start=(1.0, 2.0)).start(SEEDS)["y"].tolist() == [2.0] * 4
    many = Valley(start=[(k, 10.0 * k) for k in range(8)]).start(SEEDS)
    assert many["x"].tolist() == [0, 1, 1, 7]
    assert many["y"].tolist() == [0, 10, 10, 70]
    toy = TwoCurvatures(u=(1.0, 2.0), z=[(k, 0.5) for k in range(8)]).start(SEEDS)
    assert toy["u"].tolist() == [[1, 2]] * 4
    assert toy["z"][:, 0].tolist() == [0, 1, 1, 7]
    with pytest.raises(ThalwegError, match="one of the 3 starting points"):
        Ripples(start=[[0.0], [1.0], [2.0]]).start(SEEDS)


@pytest.mark.parametrize("start", [1.0, (1.0,), (1.0, 2.0, 3.0), [(1.0, 2.0), (1.0,)], [], "xy"])
def test_a_start_that_is_no_point_is_refused(start):
    with pytest.raises(ThalwegError, match="start must be"):
        Valley(start=start)


def test_examples_of_another_name_are_refused():
    with pytest.raises(ThalwegError, match='"all", "one" or "each"'):
        TwoCurvatures(examples="two")


def test_the_draw_belongs_to_the_seed_and_the_step():
    stream = TwoCurvatures(examples="one").stream(SEEDS)
    alone = TwoCurvatures(examples="one").stream(SEEDS[3:])
    rows = torch.stack([stream(t) for t in range(3000)])
    assert rows.sum(-1).unique().tolist() == [2.0]  # one example, of weight 2
    torch.testing.assert_close(rows[:, 1], rows[:, 2], rtol=0, atol=0)
    torch.testing.assert_close(
        rows[:, 3], torch.stack([alone(t)[0] for t in range(3000)]), rtol=0, atol=0
    )
    share = rows[:, :, 0].mean(0) / 2
    assert share.tolist() == pytest.approx([0.5] * 4, abs=3 * 0.5 / 3000**0.5)
    assert abs(np.corrcoef(rows[:, 0, 0], rows[:, 1, 0])[0, 1]) < 0.06
    assert TwoCurvatures().stream(SEEDS) is None


def test_each_example_has_an_ascent_of_its_own():
    run = simulate(
        TwoCurvatures(u=(0.2, 0.8), z=(0.1, -0.3), examples="each"), eta=0.05, rho=0.1, steps=1
    )
    start = torch.tensor([0.2, 0.8, 0.1, -0.3], dtype=torch.float64)
    u1, u2 = 0.2, 0.8
    mean = torch.zeros(4, dtype=torch.float64)
    for i in (0, 1):

        def gradient(w, i=i):
            w = w.clone().requires_grad_()
            f = (
                3 + (w[0] - 1) ** 2 + w[1] ** 2 / 2
                if i == 0
                else 1 + 0.3 * (w[0] + 1) ** 2 + 0.3 * (w[1] - 1) ** 2
            )
            return torch.autograd.grad(2 * f * w[2 + i] ** 2, w)[0]

        g = gradient(start)
        mean += gradient(start + 0.1 * g / g.norm()) / 2
    end = start - 0.05 * mean
    assert run.final["u"].tolist() == pytest.approx(end[:2].tolist(), rel=1e-12)
    assert run.final["z"].tolist() == pytest.approx(end[2:].tolist(), rel=1e-12)
    assert (u1, u2) != tuple(run.final["u"])
