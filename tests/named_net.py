"""A small network for the simulator whose tensors have the names that a model gives them."""

import torch

from thalweg.lab import Problem

FORMS = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": ()}


class Tanh(Problem):
    """A small network on minibatches: a matrix, two vectors and a number, named as in a model."""

    elementwise = False

    def start(self, seeds):
        cells = [self.drawn(int(seed)) for seed in seeds]
        return {name: torch.stack([cell[name] for cell in cells]) for name in FORMS}

    def drawn(self, seed):
        draw = torch.Generator().manual_seed(seed)
        numbers = {"generator": draw, "dtype": self.dtype}
        return {name: torch.randn(form, **numbers) for name, form in FORMS.items()}

    def stream(self, seeds):
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(9), dtype=self.dtype)
        y = torch.sin(2 * x[:, 0]) + x[:, 1]

        def batch(step):
            some = slice(6 * (step % 4), 6 * (step % 4) + 6)
            return x[some], y[some]

        return batch

    def loss(self, params, batch=None):
        x, y = batch
        first, bias, second, last = (params[name] for name in FORMS)
        hidden = torch.tanh(torch.einsum("bij,nj->bni", first, x) + bias[:, None])
        out = torch.einsum("bni,bi->bn", hidden, second) + last[:, None]
        return (out - y).square().mean(-1)

    def final_loss(self, params, seeds):
        return torch.zeros(len(seeds), dtype=self.dtype)


def model_of(w):
    """A model that has these parameters under their names."""
    model = torch.nn.Module()
    for name, value in w.items():
        path, _, own = name.rpartition(".")
        if path and not hasattr(model, path):
            model.add_module(path, torch.nn.Module())
        (getattr(model, path) if path else model).register_parameter(own, value)
    return model
