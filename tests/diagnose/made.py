"""A measurement that was made up, whose numbers are easy to reckon with."""

import dataclasses

from thalweg.curvature.edge import BaseStep
from thalweg.diagnose import Measured, Scan, Spectrum

RHO = tuple(0.01 * 10 ** (i / 4) for i in range(13))
SCAN = Scan(RHO, RHO, RHO, (0.0,) * 13, (5.0,) * 13, (1.0,) * 13, (1.0,) * 13)
MEASURED = Measured(
    parameters=100,
    batches=8,
    examples=64.0,
    loss=1.0,
    loss_noise=0.1,
    weight_norm=10.0,
    grad_norm=0.5,
    mean_grad_norm=0.4,
    noise_scale=200.0,
    largest_share=0.6,
    largest_name="head.weight",
    scan=SCAN,
    lower=0.01,
    upper=1.0,
    flip=4.0,
    base=BaseStep("SGD", 0.05, 0.05, 0.9, 1e-4),
    lambda_max=20.0,
    lambda_error=0.1,
    trace=50.0,
    trace_error=1.0,
    spectrum=Spectrum((-0.1, 0.0, 4.0, 20.0), (0.25, 0.73, 0.01, 0.01)),
)


def with_(**changes):
    return dataclasses.replace(MEASURED, **changes)
