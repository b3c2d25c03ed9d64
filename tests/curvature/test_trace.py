"""The trace against dense Hessians, and whether its stated error is the error that it has."""

import math

import nets
import pytest
import torch

from thalweg import ThalwegError
from thalweg.curvature import hessian_vector_product, on_batch
from thalweg.curvature.trace import _Deflated, trace

METHODS = ["hutch++", "hutchinson"]


def drawn(size=120, power=1.0, seed=0):
    """Return a symmetric matrix whose eigenvalues fall like 1 / i^power, and its trace."""
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -power
    turn = nets.turn(size, seed)
    return nets.Dense(turn * values @ turn.mT), float(values.sum())


def spread(found, truth):
    """Return the errors made over the errors stated."""
    return torch.tensor([(e.value - truth) / e.error for e in found], dtype=torch.float64)


@pytest.mark.parametrize("name", nets.NAMES)
def test_small_models_are_summed_up_exactly(name):
    model, batch, dense = nets.known(name)
    product = on_batch(model, nets.loss_of, batch)
    found = trace(product, products=product.size)
    assert found.value == pytest.approx(float(dense.trace()), rel=1e-8)
    assert (found.error, found.products, found.converged) == (0.0, product.size, True)
    assert product.count == product.size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", nets.NAMES)
def test_real_hessians_lie_within_the_stated_error(name, method):
    model, batch, dense = nets.known(name)
    product = on_batch(model, nets.loss_of, batch)
    found = trace(product, method=method, products=60, seed=1)
    assert abs(found.value - float(dense.trace())) < 4 * found.error
    assert found.error < 0.3 * abs(float(dense.trace()))
    assert found.products == product.count == 60


def test_hutchinson_is_its_formula():
    # Of signs, zᵀHz is tr H plus twice the entries above the diagonal, each with its signs.
    matrix = torch.tensor([[1.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    found = trace(nets.Dense(matrix), method="hutchinson", products=50)
    same = (found.value - 6) / 4 * 50  # how many more samples had equal signs than not
    assert same == pytest.approx(round(same), abs=1e-9)
    assert abs(same) < 4 * math.sqrt(50)
    share = (50 + same) / 100
    # The standard error of the mean of ±4, from this share.
    assert found.error == pytest.approx(8 * math.sqrt(share * (1 - share) / 49), rel=1e-9)


def test_a_diagonal_matrix_is_exact_from_two_products():
    found = trace(nets.Dense(torch.diag(torch.arange(9.0))), method="hutchinson", products=2)
    assert (found.value, found.error) == (36.0, 0.0)


@pytest.mark.parametrize("power", [0.3, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_stated_error_is_the_error(method, power):
    # 400 seeds, all products taken. Of errors over stated errors, t-distributed with some 20 or 60
    # degrees of freedom, 95.4 % of a normal lie within 2; 4 standard deviations of 400 are 4.2 %.
    matrix, truth = drawn(power=power)
    over = spread([trace(matrix, method=method, products=60, seed=s) for s in range(400)], truth)
    assert 0.90 < float((over.abs() < 2).double().mean()) < 0.985
    assert abs(float(over.mean())) < 4 / math.sqrt(400)  # no bias
    assert 0.85 < float(over.std()) < 1.2


@pytest.mark.parametrize(("power", "tolerance"), [(0.3, 5e-3), (1.0, 0.02), (1.0, 0.03)])
@pytest.mark.parametrize("method", METHODS)
def test_the_error_asked_for_is_held(method, power, tolerance):
    # 200 seeds. Stopping when the error seems small makes it seem smaller than it is: within 2
    # tolerances lie not 95.4 % but still 90 %, less 4 standard deviations of 200.
    matrix, truth = drawn(size=400, power=power)
    settings = {"method": method, "tolerance": tolerance, "products": 390}
    found = [trace(matrix, **settings, seed=s) for s in range(200)]
    assert all(e.converged and e.error <= tolerance * e.value for e in found)
    off = torch.tensor([abs(e.value - truth) / truth for e in found])
    assert float((off < 2 * tolerance).double().mean()) > 0.82
    assert all(e.products < 390 for e in found)  # it stopped by itself


def test_more_is_asked_for_more_precision():
    matrix, _ = drawn(size=400, power=0.3)
    asked = [trace(matrix, method="hutchinson", tolerance=t, products=399) for t in (0.2, 3e-3)]
    assert asked[0].products < 30 < 50 < asked[1].products
    assert asked[1].error < asked[0].error


def test_hutch_plus_plus_is_the_better_one_where_eigenvalues_fall():
    # The ratio of the squared errors of 60 seeds each, from eigenvalues 1 / i²: far below 1.
    matrix, truth = drawn(size=400, power=2.0)
    off = {
        method: sum(
            (trace(matrix, method=method, products=60, seed=s).value - truth) ** 2
            for s in range(60)
        )
        for method in METHODS
    }
    assert off["hutch++"] < 0.01 * off["hutchinson"]


def test_a_low_rank_is_found_exactly():
    turn = nets.turn(200)[:, :5]
    matrix = nets.Dense(turn @ torch.diag(torch.arange(1.0, 6.0).double()) @ turn.mT)
    found = trace(matrix, products=30)  # a basis of ten, of which five add nothing
    assert found.value == pytest.approx(15, rel=1e-12)
    assert found.error < 1e-12


def test_samples_are_used_again_when_the_basis_grows():
    # Grown at once or in steps, with the same samples: the same forms, to rounding.
    matrix, _ = drawn(size=80, power=0.5)
    at_once, grown = (_Deflated(matrix, 3) for _ in range(2))
    at_once.grow(12)
    for rounds in (4, 8, 12):
        grown.grow(rounds)
        for _ in range(3):
            grown.sample()
    for _ in range(9):
        at_once.sample()
    assert grown.forms == pytest.approx(at_once.forms, rel=1e-9, abs=1e-11)
    assert grown.exact == pytest.approx(at_once.exact, rel=1e-10)
    assert grown.taken == at_once.taken == 2 * 12 + 9


def test_it_says_when_the_error_was_not_reached():
    matrix, _ = drawn(size=400)
    for method in METHODS:
        found = trace(matrix, method=method, tolerance=1e-6, products=60)
        assert not found.converged
        assert found.products == 60
        assert 1e-6 * found.value < found.error < math.inf


@pytest.mark.parametrize("products", range(2, 12))
@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_products_gives_an_error(method, products):
    matrix, _ = drawn()
    matrix.count = 0
    found = trace(matrix, method=method, products=products)
    assert found.products == matrix.count == products
    assert 0 < found.error < math.inf


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_without_curvature_has_none(method):
    w = torch.ones(300, requires_grad=True)
    product = hessian_vector_product(lambda: w.sum(), [w])
    found = trace(product, method=method, tolerance=0.1, products=60)
    assert (found.value, found.error, found.converged) == (0.0, 0.0, True)


def test_one_parameter():
    w = torch.tensor([2.0], requires_grad=True)
    product = hessian_vector_product(lambda: (w**3).sum(), [w])
    assert trace(product).value == 12.0
    assert trace(product, method="hutchinson", products=2).value == 12.0


@pytest.mark.parametrize("method", METHODS)
def test_deterministic_and_without_a_trace_in_torchs_random_numbers(method):
    matrix, _ = drawn()
    before = torch.get_rng_state()
    first, again, other = (trace(matrix, method=method, seed=s, products=30) for s in (5, 5, 6))
    assert first == again
    assert first.value != other.value
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbouring_seeds_share_no_samples():
    matrix, _ = drawn()
    forms = []
    for seed in range(5):
        state = _Deflated(matrix, seed)
        for _ in range(5):
            state.sample()
        forms += state.forms
    assert len(set(forms)) == 25


def test_float32_is_as_good_as_its_rounding():
    model, batch, dense = nets.known("mlp")
    single = nets.net("mlp", torch.float32).eval()
    product = on_batch(single, nets.loss_of, nets.digits(dtype=torch.float32))
    assert trace(product, products=200).value == pytest.approx(float(dense.trace()), rel=1e-4)
    double = trace(on_batch(model, nets.loss_of, batch), products=60)
    assert trace(product, products=60).value == pytest.approx(double.value, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "hutch"}, r"method must be \"hutch\+\+\" or \"hutchinson\", got 'hutch'"),
        ({"method": None}, "method must be"),
        ({"tolerance": 0.0}, "tolerance must be a finite number > 0"),
        ({"tolerance": math.nan}, "tolerance must be a finite number > 0"),
        ({"tolerance": "1"}, "tolerance must be a finite number > 0"),
        ({"products": 1}, "products must be a whole number >= 2"),
        ({"products": 10.5}, "products must be a whole number >= 2"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": "a"}, "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named(settings, said):
    matrix, _ = drawn(10)
    with pytest.raises(ThalwegError, match=said):
        trace(matrix, **settings)
    assert matrix.count == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [4, 200])
def test_a_product_that_is_not_finite_is_an_error(size, method):
    w = torch.zeros(size, requires_grad=True)
    product = hessian_vector_product(lambda: (w.abs() ** 1.5).sum(), [w])
    with pytest.raises(ThalwegError, match="the product must be finite, got inf or nan"):
        trace(product, method=method)
