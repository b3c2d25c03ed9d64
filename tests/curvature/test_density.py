"""The density against the dense spectrum, within the bounds that the docstring states."""

import math

import nets
import pytest
import torch

from thalweg import ThalwegError
from thalweg.curvature import hessian_vector_product, on_batch
from thalweg.curvature.density import Density, _quadrature, spectrum
from thalweg.curvature.trace import signs, trace


def measured(name):
    model, batch, dense = nets.known(name)
    return on_batch(model, nets.loss_of, batch), torch.linalg.eigh(dense)


def between(*axes):
    """Return points in every gap between the entries of the axes, and beyond their ends."""
    ends = torch.cat(axes).sort().values
    return torch.cat([ends[:1] - 1, (ends[1:] + ends[:-1]) / 2, ends[-1:] + 1])


def bound(nodes, weights, grid):
    """Return the larger weight of the nodes before and behind each point, of one quadrature."""
    place = torch.searchsorted(nodes, grid)
    padded = torch.cat([torch.zeros(1), weights, torch.zeros(1)])
    return torch.maximum(padded[place], padded[place + 1])


@pytest.mark.parametrize("steps", [3, 10, 40])
@pytest.mark.parametrize("name", nets.NAMES)
def test_a_quadrature_is_within_its_bound_of_what_the_vector_sees(name, steps):
    product, (values, vectors) = measured(name)
    found = spectrum(product, steps=steps, vectors=1, seed=7)
    z = signs(product, torch.Generator().manual_seed(7))
    shares = (vectors.mT @ z) ** 2 / product.size
    grid = between(values, found.nodes)
    true = (values <= grid.unsqueeze(-1)).double() @ shares
    off = (found.cumulative(grid) - true).abs()
    assert (off <= bound(found.nodes, found.weights, grid) + 1e-9).all()
    assert float(off.max()) > 1e-4  # which it does not get by being exact


@pytest.mark.parametrize("name", nets.NAMES)
def test_the_moments_are_those_of_the_vector(name):
    # A Gauss quadrature of n nodes is exact up to the power 2n - 1.
    product, (values, vectors) = measured(name)
    found = spectrum(product, steps=4, vectors=1, seed=3)
    z = signs(product, torch.Generator().manual_seed(3))
    shares = (vectors.mT @ z) ** 2 / product.size
    for order in range(8):
        assert found.moment(order) == pytest.approx(float(shares @ values**order), rel=1e-8)
    assert found.moment(8) != pytest.approx(float(shares @ values**8), rel=1e-8)
    assert found.mean == pytest.approx(found.moment(1), rel=1e-10)


@pytest.mark.parametrize("name", nets.NAMES)
def test_the_cumulative_share_of_a_real_hessian_is_within_the_stated_bound(name):
    product, (values, _) = measured(name)
    count, steps = 8, 40
    found = spectrum(product, vectors=count, steps=steps)
    assert found.products == product.count == count * steps
    # Its runs one by one, for the weights that stand at each place.
    draw = torch.Generator().manual_seed(0)
    runs = [_quadrature(product, signs(product, draw), steps) for _ in range(count)]
    grid = between(values, found.nodes)
    true = (values <= grid.unsqueeze(-1)).double().mean(-1)
    stated = torch.stack([bound(*run, grid) for run in runs]).mean(0)
    noise = 4 * (2 * true * (1 - true) / (product.size * count)).sqrt()
    off = (found.cumulative(grid) - true).abs()
    assert (off <= stated + noise + 1e-9).all()
    # The bound is wide only where many eigenvalues stand at one place, here at 0.
    away = grid.abs() > 0.1 * float(values[-1] - values[0])
    assert float((stated + noise)[away].max()) < 0.1
    assert float(off[away].max()) < 0.03


def test_random_vectors_are_off_by_no_more_than_stated():
    # 300 seeds with as many nodes as eigenvalues: what is left is the vector's own share.
    size, n = 40, 300
    values = torch.linspace(-1, 1, size, dtype=torch.float64)
    loss, w = nets.of(values, nets.turn(size))
    product = hessian_vector_product(loss, w)
    grid = torch.tensor([-0.7, 0.0, 0.5], dtype=torch.float64)
    true = (values <= grid.unsqueeze(-1)).double().mean(-1)
    found = torch.stack(
        [spectrum(product, steps=size, vectors=1, seed=s).cumulative(grid) for s in range(n)]
    )
    stated = (2 * true * (1 - true) / size).sqrt()
    spread = ((found - true) ** 2).mean(0).sqrt()
    assert (spread < 1.17 * stated).all()  # 4 standard errors of a spread from 300
    assert (spread > 0.7 * stated).all()
    assert ((found.mean(0) - true).abs() < 4 * stated / math.sqrt(n)).all()


@pytest.mark.parametrize("name", nets.NAMES)
def test_the_mean_is_the_trace_over_the_size_within_its_error(name):
    product, (values, _) = measured(name)
    found = spectrum(product, vectors=12, steps=2)
    truth = float(values.mean())
    assert abs(found.mean - truth) < 4.5 * found.error  # t with 11 degrees: 1 in 1000
    assert 0 < found.error < 0.5 * abs(truth)
    exact = trace(product, products=product.size)
    assert truth * product.size == pytest.approx(exact.value, rel=1e-8)


def test_the_error_of_the_mean_is_that_of_the_vectors():
    product, _ = measured("mlp")
    found = spectrum(product, vectors=5, steps=1)
    assert len(found.nodes) == 5  # one step: a node is the mean of one vector
    assert found.weights.tolist() == pytest.approx([0.2] * 5)
    assert found.mean == pytest.approx(float(found.nodes.mean()), rel=1e-12)
    assert found.error == pytest.approx(float(found.nodes.std()) / math.sqrt(5), rel=1e-9)
    assert math.isnan(spectrum(product, vectors=1, steps=1).error)


def test_the_outermost_nodes_are_eigenvalues_and_none_comes_twice():
    # Without keeping the vectors orthogonal, large eigenvalues are found again and again.
    values = torch.cat([torch.linspace(0, 1, 95), torch.tensor([10.0, 20.0, 40.0, 80.0, 160.0])])
    loss, w = nets.of(values, nets.turn(100))
    found = spectrum(hessian_vector_product(loss, w), steps=60, vectors=1)
    assert found.nodes[-5:].tolist() == pytest.approx(values[-5:].tolist(), rel=1e-8)
    assert float(found.nodes[-6]) <= 1 + 1e-8
    assert float(found.nodes[0]) == pytest.approx(0, abs=1e-3)


def test_smoothed_it_is_a_density():
    product, (values, _) = measured("convnet")
    found = spectrum(product, vectors=6, steps=60)
    width = 0.05 * float(values[-1] - values[0])
    grid = torch.linspace(float(values[0]) - 8 * width, float(values[-1]) + 8 * width, 2000)
    drawn = found.on(grid, width)
    grid = grid.double()
    assert float(torch.trapezoid(drawn, grid)) == pytest.approx(1, abs=1e-6)
    assert float(torch.trapezoid(drawn * grid, grid)) == pytest.approx(found.mean, rel=1e-4)
    assert (drawn >= 0).all()
    bumps = torch.exp(-(((grid.unsqueeze(-1) - values) / width) ** 2) / 2)
    true = bumps.mean(-1) / (width * math.sqrt(2 * math.pi))
    # Half the area between two densities is at most 1; measured .02.
    assert float(torch.trapezoid((drawn - true).abs(), grid)) / 2 < 0.06


def test_the_width_is_a_hundredth_of_the_range_unless_told_otherwise():
    nodes = torch.tensor([-1.0, 3.0], dtype=torch.float64)
    density = Density(nodes, torch.tensor([0.5, 0.5]).double(), 1.0, 0.0, 2, 2)
    assert torch.equal(density.on([0.0, 3.0]), density.on([0.0, 3.0], 0.04))
    assert density.on(torch.zeros(3, 2)).shape == (3, 2)
    assert density.cumulative(torch.zeros(3, 2)).tolist() == [[0.5, 0.5]] * 3
    assert density.cumulative([-1.0, 3.0]).tolist() == [0.5, 1.0]  # a node is at most itself
    one = Density(nodes[:1], torch.ones(1).double(), -1.0, 0.0, 2, 2)
    with pytest.raises(ThalwegError, match="width must be given where all eigenvalues are one"):
        one.on([0.0])
    assert one.on([-1.0], 0.5).item() == pytest.approx(2 / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_span_that_closes_ends_the_run(dtype):
    # Three different eigenvalues: three nodes, whatever is asked for.
    values = torch.tensor([1.0] * 10 + [2.0] * 6 + [7.0] * 4, dtype=dtype)
    w = torch.ones(20, dtype=dtype, requires_grad=True)
    product = hessian_vector_product(lambda: (values * w**2).sum() / 2, [w])
    found = spectrum(product, vectors=1, steps=20)
    assert found.nodes.tolist() == pytest.approx([1, 2, 7], rel=1e-5)
    assert found.weights.tolist() == pytest.approx([0.5, 0.3, 0.2], rel=1e-5)
    assert found.products == product.count == 3


def test_no_curvature_and_one_parameter():
    w = torch.ones(30, requires_grad=True)
    found = spectrum(hessian_vector_product(lambda: w.sum(), [w]))
    assert (set(found.nodes.tolist()), found.mean, found.error) == ({0.0}, 0.0, 0.0)
    assert float(found.weights.sum()) == pytest.approx(1)
    one = torch.tensor([2.0], requires_grad=True)
    found = spectrum(hessian_vector_product(lambda: (one**3).sum(), [one]), vectors=1)
    assert (found.nodes.tolist(), found.weights.tolist(), found.size) == ([12.0], [1.0], 1)


def test_deterministic_and_without_a_trace_in_torchs_random_numbers():
    product, _ = measured("mlp")
    before = torch.get_rng_state()
    first, again, other = (spectrum(product, steps=5, seed=s) for s in (2, 2, 3))
    assert torch.equal(first.nodes, again.nodes)
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.nodes, other.nodes)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"steps": 2.5}, "steps must be a whole number >= 1"),
        ({"vectors": 0}, "vectors must be a whole number >= 1"),
        ({"vectors": True}, "vectors must be a whole number >= 1"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": None}, "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    product, _ = measured("mlp")
    with pytest.raises(ThalwegError, match=said):
        spectrum(product, **settings)
    assert product.count == 0


def test_bad_widths_and_orders_are_named():
    product, _ = measured("mlp")
    found = spectrum(product, steps=2, vectors=1)
    for width in (0.0, -1.0, math.inf, "1"):
        with pytest.raises(ThalwegError, match="width must be a finite number > 0"):
            found.on([0.0], width)
    with pytest.raises(ThalwegError, match="order must be a whole number >= 0"):
        found.moment(-1)


def test_a_product_that_is_not_finite_is_an_error():
    w = torch.zeros(4, requires_grad=True)
    product = hessian_vector_product(lambda: (w.abs() ** 1.5).sum(), [w])
    with pytest.raises(ThalwegError, match="the product must be finite, got inf or nan"):
        spectrum(product)


@pytest.mark.parametrize("bad", [None, "x", {}, [[1.0], [1.0, 2.0]]])
def test_a_grid_is_made_of_numbers(bad):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    density = Density(ends, torch.tensor([0.8, 0.2]).double(), 0.2, 0.0, 10, 2)
    for read in (density.cumulative, lambda grid: density.on(grid, width=0.1)):
        with pytest.raises(ThalwegError, match=r"^grid must be a tensor or a list of numbers, got"):
            read(bad)
