"""Products with vectors against dense matrices, finite differences and another library."""

import warnings

import nets
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg import SAM, ThalwegError, layout
from thalweg.curvature import gauss_newton_vector_product, hessian_vector_product, on_batch
from thalweg.curvature.product import flat

each_net = pytest.mark.parametrize("name", nets.NAMES)


def hessian(name):
    model, batch, dense = nets.known(name)
    parameters = list(model.parameters())
    return hessian_vector_product(lambda: nets.loss_of(model, batch), parameters), dense


def gauss_newton(name):
    """Return the product, and JᵀBJ with J and B taken row by row."""
    model, (x, y), _ = nets.known(name)
    parameters = dict(model.named_parameters())
    product = gauss_newton_vector_product(
        lambda: model(x), lambda out: functional.cross_entropy(out, y), list(parameters.values())
    )
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(
            lambda *w: functional_call(model, dict(zip(parameters, w, strict=True)), (x,)),
            tuple(parameters.values()),
        )
        out = model(x).detach()
    rows = torch.cat([part.reshape(out.numel(), -1) for part in jacobian], dim=1)
    bend = torch.autograd.functional.hessian(lambda o: functional.cross_entropy(o, y), out)
    return product, rows.mT @ bend.reshape(out.numel(), -1) @ rows


KINDS = {"hessian": hessian, "gauss_newton": gauss_newton}
each_kind = pytest.mark.parametrize("kind", KINDS)


def vectors(size, count=1, dtype=torch.float64):
    return torch.randn(
        count, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    ).to(dtype)


@each_net
@each_kind
def test_every_column_is_that_of_the_dense_matrix(kind, name):
    product, dense = KINDS[kind](name)
    scale = float(dense.abs().max())
    assert scale > 1e-2
    torch.testing.assert_close(nets.matrix(product), dense, rtol=0, atol=1e-8 * scale)
    assert product.size == product.count == len(dense)


def test_the_two_kinds_differ():
    for name in nets.NAMES:
        difference = (hessian(name)[1] - gauss_newton(name)[1]).abs().max()
        assert float(difference) > 1e-3


@each_net
def test_the_product_is_the_change_of_the_gradient(name):
    model, (x, y), _ = nets.known(name)
    product, _ = hessian(name)
    (v,) = vectors(product.size)
    names = [n for n, _ in model.named_parameters()]

    def slope(distance):
        moved = [
            (p + distance * part).detach().requires_grad_()
            for p, part in zip(model.parameters(), product.like(v), strict=True)
        ]
        out = functional_call(model, dict(zip(names, moved, strict=True)), (x,))
        return flat(torch.autograd.grad(functional.cross_entropy(out, y), moved))

    h = 1e-5  # of the second order: about 1e-10 from the third derivative, as much from rounding
    change = (slope(h) - slope(-h)) / (2 * h)
    torch.testing.assert_close(product(v), change, rtol=1e-6, atol=1e-8)


@each_net
def test_it_agrees_with_curvlinops(name):
    peer = pytest.importorskip("curvlinops")
    model, batch, _ = nets.known(name)
    data = (model, nn.CrossEntropyLoss(), list(model.parameters()), [batch])
    rows = vectors(sum(p.numel() for p in model.parameters()), 3)
    kinds = {"hessian": peer.HessianLinearOperator, "gauss_newton": peer.GGNLinearOperator}
    for kind, operator in kinds.items():
        product, _ = KINDS[kind](name)
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = operator(*data, check_deterministic=False)
            for v in rows:
                torch.testing.assert_close(product(v), other @ v, rtol=1e-8, atol=1e-10)


@each_net
@each_kind
def test_symmetric_linear_and_deterministic(kind, name):
    product, _ = KINDS[kind](name)
    u, v = vectors(product.size, 2)
    hu, hv = product(u), product(v)
    assert float(u @ hv) == pytest.approx(float(v @ hu), rel=1e-9)
    torch.testing.assert_close(product(2 * u - 3 * v), 2 * hu - 3 * hv, rtol=1e-9, atol=1e-11)
    assert torch.equal(product(v), hv)
    assert torch.equal(KINDS[kind](name)[0](v), hv)
    assert product(torch.zeros_like(v)).abs().max() == 0
    assert hv.abs().max() > 0


@each_net
def test_gauss_newton_never_bends_downwards_but_the_hessian_does(name):
    values = torch.linalg.eigvalsh(nets.matrix(gauss_newton(name)[0]))
    assert float(values[0]) > -1e-10
    assert float(torch.linalg.eigvalsh(nets.matrix(hessian(name)[0]))[0]) < -1e-2


def test_of_a_linear_model_the_two_are_one():
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(64, 10).double(), nets.digits(20)
    w = list(model.parameters())
    first = hessian_vector_product(lambda: functional.cross_entropy(model(x), y), w)
    second = gauss_newton_vector_product(
        lambda: model(x), lambda out: functional.cross_entropy(out, y), w
    )
    (v,) = vectors(first.size)
    torch.testing.assert_close(first(v), second(v), rtol=1e-9, atol=1e-11)


@each_net
@each_kind
def test_loss_and_gradient_come_along_and_grad_is_left_alone(kind, name):
    model, batch, _ = nets.known(name)
    before = nets.state(model)
    product, _ = KINDS[kind](name)
    product(vectors(product.size)[0])
    loss = nets.loss_of(model, batch)
    assert product.loss == pytest.approx(loss.item(), rel=1e-12)
    slope = torch.autograd.grad(loss, list(model.parameters()))
    for found, expected in zip(product.gradient, slope, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert not found.requires_grad
    assert nets.state(model) == before
    assert all(p.grad is None for p in model.parameters())


def test_vectors_come_in_both_forms():
    product, _ = hessian("mlp")
    (v,) = vectors(product.size)
    parts = product.like(v)
    assert [p.shape for p in parts] == [p.shape for p in product.parameters]
    assert torch.equal(flat(parts), v)
    found = product(parts)
    assert [f.shape for f in found] == [p.shape for p in product.parameters]
    assert torch.equal(flat(found), product(v))
    assert torch.equal(flat(product(tuple(parts))), product(v))
    assert not product(v).requires_grad


def test_float32_is_as_good_as_its_rounding():
    _, dense = hessian("convnet")
    single = nets.net("convnet", torch.float32).eval()
    product = on_batch(single, nets.loss_of, nets.digits(dtype=torch.float32))
    (v,) = vectors(product.size, dtype=torch.float32)
    assert product(v).dtype == torch.float32
    torch.testing.assert_close(product(v).double(), dense @ v.double(), rtol=1e-4, atol=1e-4)


def test_what_the_loss_does_not_see_or_does_not_bend_gives_zeros():
    seen, straight, unseen = (torch.ones(2, requires_grad=True) for _ in range(3))
    product = hessian_vector_product(
        lambda: (seen**3).sum() + straight.sum(), [seen, straight, unseen]
    )
    found = product(torch.ones(6))
    assert found.tolist() == [6.0, 6.0, 0.0, 0.0, 0.0, 0.0]
    assert [g.tolist() for g in product.gradient] == [[3.0, 3.0], [1.0, 1.0], [0.0, 0.0]]
    flat_loss = hessian_vector_product(lambda: straight.sum(), [straight])
    assert flat_loss(torch.ones(2)).tolist() == [0.0, 0.0]


def test_of_parameters_only_those_that_require_a_gradient():
    still, w = torch.ones(3), torch.ones(2, requires_grad=True)
    product = hessian_vector_product(lambda: (w**2).sum() * still.sum(), [still, w])
    assert product.size == 2
    assert product(torch.ones(2)).tolist() == [6.0, 6.0]


def kernels():
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def test_the_choice_of_kernels_is_put_back():
    w, seen = torch.ones(1, requires_grad=True), []

    def loss(fails):
        seen.append(kernels())
        if fails:
            raise KeyError("no such thing")
        return (w**2).sum()

    before = kernels()
    hessian_vector_product(lambda: loss(False), [w])
    assert kernels() == before == (True, True, True)
    with pytest.raises(KeyError):
        hessian_vector_product(lambda: loss(True), [w])
    assert kernels() == before
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        chosen = kernels()
        hessian_vector_product(lambda: loss(False), [w])
        assert kernels() == chosen == (True, False, False)
    assert seen == [(False, False, True)] * 3


def test_attention_that_came_with_another_kernel_says_what_to_do():
    model, batch, _ = nets.known("attention")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss = nets.loss_of(model, batch)
    with pytest.raises(ThalwegError, match="pass a function that computes the loss"):
        hessian_vector_product(loss, list(model.parameters()))(vectors(378)[0])


def test_it_may_be_taken_where_gradients_are_off():
    w = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        product = hessian_vector_product(lambda: (w**3).sum(), [w])
        assert product(torch.ones(2)).tolist() == [6.0, 6.0]


@pytest.mark.parametrize("size", [4, 2 * layout.SMALL])
def test_after_a_step_or_while_sam_has_moved_the_weights_it_raises(size):
    w = torch.ones(size, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    sam = SAM(optimizer, None, rho=0.1)
    there = "the parameters must be those at which the loss was taken.*build the product anew"

    def fresh():
        return hessian_vector_product(lambda: (w**4).sum(), [w])

    v = torch.ones(size)
    before, uphill = fresh(), None
    for here in sam.passes():
        if here.last:
            with pytest.raises(ThalwegError, match=there):
                before(v)
            uphill = fresh()
            assert float(uphill(v)[0]) > 12.0  # of the place it was made at
        (w**4).sum().backward()
    with pytest.raises(ThalwegError, match=there):
        uphill(v)
    at_rest = fresh()
    assert at_rest([v])[0].tolist() == [12.0] * size
    optimizer.step()
    for _ in range(2):
        with pytest.raises(ThalwegError, match=there):
            at_rest(v)
    assert at_rest.count == 1
    assert float(fresh()(v)[0]) < 12.0


def test_a_compiled_model_says_what_to_use_instead():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    compiled = torch.compile(model, backend="aot_eager")
    x, w = torch.randn(4, 3), list(model.parameters())
    product = hessian_vector_product(lambda: (compiled(x) ** 2).mean(), w)
    with pytest.raises(ThalwegError, match=r"got a compiled one.*use model\._orig_mod"):
        product(torch.ones(8))
    found = on_batch(compiled, lambda m, x: (m(x) ** 2).mean(), x)
    expected = hessian_vector_product(lambda: (model(x) ** 2).mean(), w)
    assert torch.equal(found(torch.ones(8)), expected(torch.ones(8)))
