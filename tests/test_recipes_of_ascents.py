"""Recipes with an ascent of one's own: one gradient of each is its formula, written out."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import thalweg

FOLDER = Path(__file__).parents[1] / "examples"
RHO, SHARE, K = 0.5, 4, 16


def load(name, ascent="here.ascent"):
    """Return the names of an example that asks something else instead of ``here.ascent``."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert "here.ascent" in text
    text = text.replace("here.ascent", ascent)
    names = {"__name__": name}
    exec(compile(text, name, "exec"), names)
    return names


def batch():
    x, y = (torch.tensor(a[:64]) for a in load_digits(return_X_y=True))
    return x.double() / 8 - 1, y


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 8), *layers, nn.Tanh(), nn.Linear(8, 10)).double()


def of_example(gradient, model, *settings, rho=RHO, **others):
    """Return what the example leaves for the base optimizer, with the seed 5 before it."""
    sam = thalweg.SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=rho, **others)
    torch.manual_seed(5)
    gradient(sam, model, *batch(), *settings)
    return [p.grad for p in model.parameters()]


class ByHand:
    """The network as a function of its weights; every call draws the random numbers of seed 5."""

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        self.names = [name for name, _ in model.named_parameters()]
        self.w = [p.detach().clone() for p in model.parameters()]

    def logits(self, w, x):
        return functional_call(self.model, dict(zip(self.names, w, strict=True)), (x,))

    def slope(self, loss, w=None):
        w = [t.clone().requires_grad_() for t in (self.w if w is None else w)]
        torch.manual_seed(5)
        return torch.autograd.grad(loss(w), w)

    def uphill(self, loss, rho):
        g = self.slope(loss)
        length = math.sqrt(sum(float((t * t).sum()) for t in g))
        return [t + rho / length * s for t, s in zip(self.w, g, strict=True)]


def another_loss(net, x, y, rho):
    def bound(w):
        total = 0.0
        for logits, right in zip(net.logits(w, x), y.tolist(), strict=True):
            wrong = torch.stack([z for j, z in enumerate(logits) if j != right]).max()
            total += 1 - torch.log(1 + (math.e - 1) * torch.exp(logits[right] - wrong))
        return total / len(y)

    return net.slope(lambda w: cross_entropy(net.logits(w, x), y), net.uphill(bound, rho))


def quarter(net, x, y, rho):
    w = net.uphill(lambda w: cross_entropy(net.logits(w, x[:16]), y[:16]), rho)
    return net.slope(lambda w: cross_entropy(net.logits(w, x), y), w)


def losses(net, w, x, y):
    return -net.logits(w, x).log_softmax(1)[torch.arange(len(y)), y]


def most_risen(net, x, y, rho):
    w = net.uphill(lambda w: losses(net, w, x, y).mean(), rho)
    rise = (losses(net, w, x, y) - losses(net, net.w, x, y)).tolist()
    rows = sorted(range(len(y)), key=rise.__getitem__)[-K:]
    return net.slope(lambda w: losses(net, w, x[rows], y[rows]).mean(), w)


def largest(net, x, y, rho):
    held = losses(net, net.w, x, y).tolist()
    rows = sorted(range(len(y)), key=held.__getitem__)[-K:]
    w = net.uphill(lambda w: losses(net, w, x[rows], y[rows]).mean(), rho)
    return net.slope(lambda w: losses(net, w, x[rows], y[rows]).mean(), w)


RECIPES = {
    "another loss": ("ascent_loss", "gradient", (), another_loss),
    "quarter": ("ascent_quarter", "gradient", (SHARE,), quarter),
    "most risen": ("ascent_selected", "most_risen", (K,), most_risen),
    "largest": ("ascent_selected", "largest", (K,), largest),
}


def apart(found, expected):
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_gradient_is_the_formula(recipe):
    file, function, settings, formula = RECIPES[recipe]
    model = network()
    found = of_example(load(file)[function], model, *settings)
    expected = {rho: formula(ByHand(model), *batch(), rho) for rho in (RHO, 0.0, -RHO)}
    assert apart(found, expected[RHO]) < 1e-10
    assert all(apart(found, expected[rho]) > 1e-3 for rho in (0.0, -RHO))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_are_not_one_another_and_not_plain_sam(recipe):
    net = ByHand(network())
    formulas = {name: row[3] for name, row in RECIPES.items()}
    found = formulas.pop(recipe)(net, *batch(), RHO)
    x, y = batch()
    way = net.uphill(lambda w: cross_entropy(net.logits(w, x), y), RHO)
    plain = net.slope(lambda w: cross_entropy(net.logits(w, x), y), way)
    for other in (plain, *(formula(net, x, y, RHO) for formula in formulas.values())):
        assert apart(found, other) > 1e-3


@pytest.mark.parametrize("recipe", ["another loss", "quarter", "most risen"])
@pytest.mark.parametrize("instead", ["True", "False", "(not here.ascent)"])
def test_a_recipe_that_does_not_ask_for_the_ascent_is_another(recipe, instead):
    file, function, settings, formula = RECIPES[recipe]
    model = network()
    gradient = load(file, ascent=instead)[function]
    found = of_example(gradient, model, *settings)
    assert apart(found, formula(ByHand(model), *batch(), RHO)) > 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_without_an_ascent_lowers_the_descent_s_loss(recipe):
    file, function, settings, _ = RECIPES[recipe]
    model = network()
    found = of_example(load(file)[function], model, *settings, rho=0.0)
    net, (x, y) = ByHand(model), batch()
    rows = range(64)
    if file == "ascent_selected":
        rows = losses(net, net.w, x, y).topk(K).indices
    assert apart(found, net.slope(lambda w: losses(net, w, x[rows], y[rows]).mean())) < 1e-10


@pytest.mark.parametrize("recipe", ["another loss", "quarter", "most risen"])
def test_a_counter_would_do_for_one_ascent_only(recipe):
    file, function, settings, _ = RECIPES[recipe]
    kinds = [load(file, ascent=text)[function] for text in ("here.ascent", "(here.index == 0)")]
    for ascents, differs in ((1, False), (2, True)):
        method = thalweg.Method(ascents=ascents)
        found = [of_example(kind, network(), *settings, method=method) for kind in kinds]
        assert (apart(*found) > 1e-3) if differs else (apart(*found) == 0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_falls_and_rho_acts(recipe):
    file, function, _, _ = RECIPES[recipe]
    names = load(file)
    settings = {"gradient": names[function]} if file == "ascent_selected" else {}
    (model, sam), (off, _) = (names["train"](**settings, **more)[:2] for more in ({}, {"rho": 0.0}))
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    with torch.no_grad():
        assert cross_entropy(model(x.float() / 8 - 1), y) < 0.6  # 2.3 at the start
    assert sam.last.perturbation_norm == pytest.approx(0.05)
    assert apart(model.parameters(), off.parameters()) > 1e-2


def test_the_bound_is_one_and_has_a_slope():
    bound = load("ascent_loss")["wrong_at_least"]
    torch.manual_seed(0)
    logits = (4 * torch.randn(1000, 1, 10).double()).requires_grad_()
    y = torch.randint(10, (1000, 1))
    found = torch.stack([bound(*row) for row in zip(logits, y, strict=True)])
    wrong = logits[:, 0].argmax(1) != y[:, 0]
    assert (found <= wrong.double()).all()
    assert found[wrong].min() >= 0 > found[~wrong].max()
    (slopes,) = torch.autograd.grad(found.sum(), logits)
    assert float(slopes.abs().amax((1, 2)).min()) > 0


# --- what the page says of dropout and BatchNorm


@pytest.mark.parametrize("recipe", ["another loss", "most risen"])
def test_dropout_is_the_same_where_the_batch_is(recipe):
    """By hand every call draws from seed 5: so do the passes, from where the first one began."""
    file, function, settings, _ = RECIPES[recipe]
    model = network(nn.Dropout(0.5))
    (x, y), net = batch(), ByHand(model)
    found = of_example(load(file)[function], model, *settings)
    if recipe == "another loss":
        assert apart(found, another_loss(net, x, y, RHO)) < 1e-10
        return
    w = net.uphill(lambda w: losses(net, w, x, y).mean(), RHO)
    held = []
    for at in (w, net.w):
        torch.manual_seed(5)
        held.append(losses(net, at, x, y))
    rows = (held[0] - held[1]).topk(K).indices

    def chosen(w):
        losses(net, w, x, y)  # the look at all of them comes first, and draws
        return losses(net, w, x[rows], y[rows]).mean()

    assert apart(found, net.slope(chosen, w)) < 1e-10


def running(recipe):
    """Return what the running mean of a BatchNorm is after a step; by batch, what it may be."""
    file, function, settings, _ = RECIPES[recipe]
    model = network(nn.BatchNorm1d(8))
    x, y = batch()
    with torch.no_grad():
        inside = model[0](x)
        rows = cross_entropy(copy.deepcopy(model)(x), y, reduction="none").topk(K).indices
    of_example(load(file)[function], model, *settings)
    means = {"all": inside.mean(0), "quarter": inside[:16].mean(0), "largest": inside[rows].mean(0)}
    return model[1].running_mean, means


@pytest.mark.parametrize(
    ("recipe", "first"), [("another loss", "all"), ("quarter", "quarter"), ("most risen", "all")]
)
def test_statistics_are_those_of_the_ascent_s_batch(recipe, first):
    found, means = running(recipe)
    assert apart([found], [0.1 * means.pop(first)]) < 1e-12
    assert all(apart([found], [0.1 * other]) > 1e-3 for other in means.values())


def test_a_look_before_the_passes_advances_statistics_once_more():
    found, means = running("largest")
    assert apart([found], [0.09 * means["all"] + 0.1 * means["largest"]]) < 1e-12
