"""Real text and a small transformer that reads it character by character, as a problem."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from thalweg.errors import ThalwegError, number, whole
from thalweg.lab.problems import Params, Problem

#: Kinds of characters: the commonest ones, and one for all the others.
KINDS = 60
#: Characters to validate on, and as many to test on.
HELD = 4096
#: Windows that are read at once when a long text is read: what is between layers stays small.
_AT_ONCE = 16


@functools.cache
def text() -> Tensor:
    """Return the characters of Python's own help topics as numbers below ``KINDS``, (N,).

    Every run of white space is one space. The commonest character is 0, the next 1, and so on;
    all that are rarer than those share the last number.
    """
    from pydoc_data.topics import topics

    characters = " ".join(" ".join(topics[name] for name in sorted(topics)).split())
    common = collections.Counter(characters).most_common(KINDS - 1)
    number_of = {character: i for i, (character, _) in enumerate(common)}
    return torch.tensor([number_of.get(c, KINDS - 1) for c in characters])


class Text(Problem):
    r"""A character-level transformer on the help topics of the standard library, cross-entropy.

    The loss is the mean of :math:`-\ln p(\text{next character})` in nats, at every place of every
    window. The seed of a cell decides where in the text its own training block lies, the
    initialization and the order of the windows; cells of the same seed share all three. Right
    behind the training block come the block for validation and then that for the test.

    Args:
        n_train: How many characters to train on.
        batch_size: Windows per minibatch, each from a place of the training block drawn anew.
        eta: The learning rate that the task is set up for.
        momentum: The momentum that the task is set up for.
        width: Numbers per character between the layers.
        layers: How many pairs of attention and perceptron.
        context: Characters of a window, the most that a prediction can look back on.

    Raises:
        ThalwegError: If a number is out of range.

    Example:
        >>> task = Text(n_train=1000, width=8, context=8)
        >>> seeds = torch.tensor([0, 1])
        >>> task.loss(task.start(seeds), task.stream(seeds)(0)).shape
        torch.Size([2])
    """

    dtype = torch.float32
    elementwise = False
    inputs_first = True
    quantities: tuple[str, ...] = (
        "validation_loss",
        "test_loss",
        "validation_accuracy",
        "test_accuracy",
    )

    def __init__(
        self,
        n_train: int = 16_384,
        batch_size: int = 4,
        eta: float = 0.2,
        momentum: float = 0.9,
        width: int = 32,
        layers: int = 1,
        context: int = 32,
    ) -> None:
        self.context = whole("context", context, at_least=1)
        if self.context >= HELD:
            raise ThalwegError(f"context must be below {HELD}, got {context}")
        self.n_train = whole("n_train", n_train, at_least=self.context + 1)
        self.batch_size = whole("batch_size", batch_size, at_least=1)
        self.eta = number("eta", eta, above=0)
        self.momentum = number("momentum", momentum, at_least=0, below=1)
        self.width = whole("width", width, at_least=1)
        self.layers = whole("layers", layers, at_least=1)
        if self.n_train + 2 * HELD > len(text()):
            raise ThalwegError(
                f"n_train must leave characters for validation and test (at most "
                f"{len(text()) - 2 * HELD} of {len(text())}), got {n_train}"
            )

    def start(self, seeds: Tensor) -> Params:
        """Return the networks at initialization: Gaussian, of variance 1/(fan in)."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        streams = [np.random.default_rng([int(seed), 1]) for seed in unique]
        width = self.width
        shapes = {"embedding": (KINDS, width), "place": (self.context, width)}
        for i in range(1, self.layers + 1):
            shapes |= {f"{part}{i}": (width, width) for part in ("query", "key", "value", "mix")}
            shapes |= {f"widen{i}": (width, 2 * width), f"narrow{i}": (2 * width, width)}
        shapes |= {"head": (width, KINDS)}
        params = {}
        for name, (rows, columns) in shapes.items():
            # A character, or a place, picks one row of its table: one input.
            scale = 1.0 if name in ("embedding", "place") else rows**-0.5
            drawn = scale * np.stack([s.normal(size=(rows, columns)) for s in streams])
            params[name] = torch.tensor(drawn[cell], dtype=self.dtype, device=seeds.device)
        return params

    def loss(self, params: Params, batch: Any = None) -> Tensor:
        """Return the mean cross-entropy of every cell on its batch, in nats a character, (B,).

        Args:
            params: The networks.
            batch: Windows of ``context + 1`` characters, (B, n, context + 1).

        Returns:
            The loss, (B,).
        """
        log_p = torch.log_softmax(self.logits(params, batch[..., :-1]), -1)
        return -log_p.gather(-1, batch[..., 1:, None]).mean((1, 2, 3))

    def logits(self, params: Params, characters: Tensor) -> Tensor:
        """Return the logits of the next character at every place.

        Args:
            params: The networks.
            characters: Numbers below ``KINDS``, (B, n, C), with C at most the context.

        Returns:
            Logits, (B, n, C, KINDS); those of a place depend on it and the places before it.
        """
        cells, windows, length = characters.shape
        table = params["embedding"]
        rows = characters + KINDS * torch.arange(cells, device=table.device).view(-1, 1, 1)
        x = functional.embedding(rows, table.reshape(-1, self.width))
        x = (x + params["place"][:, None, :length]).flatten(1, 2)
        later = x.new_full((length, length), -torch.inf).triu(1)
        for i in range(1, self.layers + 1):
            seen = _scaled(x)
            query, key, value = (
                # Every window of every cell for itself, (B·n, C, width).
                torch.bmm(seen, params[f"{part}{i}"]).view(-1, length, self.width)
                for part in ("query", "key", "value")
            )
            fit = torch.baddbmm(later, query, key.transpose(1, 2), alpha=self.width**-0.5)
            mixed = torch.bmm(torch.softmax(fit, -1), value).view_as(x)
            x = torch.baddbmm(x, mixed, params[f"mix{i}"])
            hidden = torch.relu(torch.bmm(_scaled(x), params[f"widen{i}"]))
            x = torch.baddbmm(x, hidden, params[f"narrow{i}"])
        return torch.bmm(_scaled(x), params["head"]).view(cells, windows, length, KINDS)

    def stream(self, seeds: Tensor) -> Callable[[int], Tensor]:
        """Return the function from step to minibatch: windows (B, batch_size, context + 1)."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        blocks = torch.stack([self._blocks(int(seed))[0] for seed in unique]).to(seeds.device)
        member = torch.tensor(cell, device=seeds.device)
        within = torch.arange(self.context + 1, device=seeds.device)
        places, size = self.n_train - self.context, (100, self.batch_size)
        drawn: dict[int, Tensor] = {}

        def batch(step: int) -> Tensor:
            hundred, turn = divmod(step, 100)
            if hundred not in drawn:
                drawn.clear()
                rngs = [np.random.default_rng([int(seed), 2, hundred]) for seed in unique]
                first = np.stack([rng.integers(0, places, size) for rng in rngs])
                drawn[hundred] = torch.tensor(first, device=seeds.device)
            rows = (drawn[hundred][:, turn, :, None] + within).flatten(1)
            return blocks.gather(1, rows).view(len(unique), self.batch_size, -1)[member]

        return batch

    def final_loss(self, params: Params, seeds: Tensor) -> Tensor:
        """Return the mean cross-entropy over the training block, (B,)."""
        return self._over(params, seeds, 0)[0]

    def observe(self, params: Params, seeds: Tensor) -> dict[str, Tensor]:
        """Return loss (nats a character) and accuracy (share of characters), each (B,)."""
        validation, test = (self._over(params, seeds, part) for part in (1, 2))
        values = (validation[0], test[0], validation[1], test[1])
        return dict(zip(self.quantities, values, strict=True))

    def _blocks(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The characters for training, validation and test; the text is read as a ring."""
        first = int(np.random.default_rng([seed, 0]).integers(len(text())))
        ring = text().roll(-first)
        train, validation, test, _ = ring.tensor_split(
            (self.n_train, self.n_train + HELD, self.n_train + 2 * HELD)
        )
        return train, validation, test

    @torch.no_grad()
    def _over(self, params: Params, seeds: Tensor, part: int) -> tuple[Tensor, Tensor]:
        """The same over a whole block, window after window."""
        unique, cell = np.unique(seeds.tolist(), return_inverse=True)
        blocks = torch.stack([self._blocks(int(seed))[part] for seed in unique])
        windows = blocks.unfold(1, self.context + 1, self.context).to(seeds.device)
        member = torch.tensor(cell, device=seeds.device)
        loss = torch.zeros(len(seeds), dtype=self.dtype, device=seeds.device)
        right = torch.zeros_like(loss)
        for some in torch.split(windows, _AT_ONCE, dim=1):
            seen, following = some[member, :, :-1], some[member, :, 1:, None]
            logits = self.logits(params, seen)
            loss -= torch.log_softmax(logits, -1).gather(-1, following).sum((1, 2, 3))
            right += (logits.argmax(-1, keepdim=True) == following).sum((1, 2, 3))
        characters = windows[0, :, 1:].numel()
        return loss / characters, right / characters


def _scaled(x: Tensor) -> Tensor:
    """Every character's numbers at a mean square of 1."""
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
