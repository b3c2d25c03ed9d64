"""Which rho, which lr, is SAM doing anything: measured on a user's own model.

The module can be called: ``thalweg.diagnose(...)`` is :func:`diagnose`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from thalweg.curvature.setting import LossOf
from thalweg.diagnose import checks, outlook, table
from thalweg.diagnose.follow import follow_steps
from thalweg.diagnose.measure import measure_model
from thalweg.diagnose.record import Diagnosis, Edge, Measured, Row, Scan, Spectrum
from thalweg.diagnose.rule import recommend
from thalweg.errors import number, whole
from thalweg.modules import within

__all__ = ["Diagnosis", "Edge", "Measured", "Row", "Scan", "Spectrum", "diagnose", "recommend"]


def diagnose(
    model: nn.Module,
    loss_of: LossOf,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    rho: float | None = None,
    power: float = 1.0,
    seed: int = 0,
    batches: int = 8,
    start_loss: float | None = None,
    train: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Measure a model as SAM would see it, and recommend a rho.

    Losses and gradients are taken on the first batches of the loader, in training mode, at w and
    at w + ε for a range of rho; λ_max, the trace and the spectrum by Hessian products, about eighty
    on each batch at most, which is most of the time. Model, modes, buffers, gradients and torch's
    random numbers are what they were afterwards, also where the loss raises. Means count batches
    by their examples. Of a model with parameters below float32 a copy in float32 is measured.

    It says something of the model as it is now: measure after a tenth of the training, not at the
    initialization nor at the end. Of a model within DistributedDataParallel each rank measures its
    own batches.

    Args:
        model: The model.
        loss_of: A function of the model and a batch that returns the mean loss of the batch,
            zero-dimensional.
        loader: Something to loop over that gives batches; it may shuffle.
        optimizer: The base optimizer of its parameters.
        rho: A rho to judge, at power 1; that of the optimizer's groups unless told otherwise, and
            the recommended one where they have none.
        power: A power whose rho is wanted beside the recommended one: the rho that gives the same
            length of ε now.
        seed: Of the random vectors of Lanczos' method, the trace and the spectrum. Layers that
            draw random numbers, such as dropout, go on from where torch's generators stand.
        batches: How many batches are taken.
        start_loss: Mean loss of the model before training, from which the recommendation comes;
            measured on a copy whose layers begin anew (``reset_parameters()``), where they can.
            To be given where the model began otherwise: by a function of your own, or pretrained.
        train: How many steps are followed with SAM at the recommended rho, on a copy.
        progress: Called with a word on what is measured next.

    Returns:
        A :class:`Diagnosis`; printed, it is a table.

    Raises:
        ThalwegError: If an argument is not what it should be, or there is nothing to measure.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> def loss_of(model, batch):
        ...     return (model(batch[0]) - batch[1]).square().mean()
        >>> loader = [(torch.eye(2), torch.ones(2, 1)), (-torch.eye(2), torch.ones(2, 1))]
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> found = diagnose(model, loss_of, loader, optimizer)
        >>> round(found.measured.lambda_max, 2), found.power
        (2.0, 1.0)
    """
    checks.check(model, loss_of, loader, optimizer)
    power = number("power", power, at_least=0)
    rho = None if rho is None else number("rho", rho, above=0)
    count, steps = whole("batches", batches, at_least=1), whole("train", train)
    model = within(model)
    tell = progress or (lambda word: None)
    try:
        measured = measure_model(
            model,
            loss_of,
            loader,
            optimizer,
            batches=count,
            seed=whole("seed", seed),
            start_loss=None if start_loss is None else number("start_loss", start_loss),
            tell=tell,
        )
    except (TypeError, AttributeError):  # of what the loss was given, or the user's own
        checks.check_outputs(model, loss_of, loader)
        raise
    advice = recommend(measured)
    asked = rho or measured.rho_now or advice.rho
    edges, changes = outlook.edges(measured, asked), outlook.changes(measured, advice.rho)
    rows = table.rows(measured, advice, asked, edges, changes, power)
    found = Diagnosis(*advice, measured, asked, edges, changes, rows)
    if steps:
        tell(f"{steps} steps with SAM")
        followed = tuple(follow_steps(model, loss_of, loader, optimizer, advice.rho, steps))
        found = dataclasses.replace(found, followed=followed)
    return found


class _Called(types.ModuleType):
    """The room bears the name of its one function, which would else hide behind it."""

    def __call__(self, *args: Any, **settings: Any) -> Diagnosis:
        return diagnose(*args, **settings)


sys.modules[__name__].__class__ = _Called
