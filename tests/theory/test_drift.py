"""The drift's velocity and clock against plain maps."""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from thalweg import theory
from thalweg.errors import ThalwegError


def valley(w):
    """Gradient of x**2 (1 + y**2) / 2: the curvature across the line x = 0 is 1 + y**2."""
    x, y = w
    return np.array([x * (1 + y * y), x * x * y])


def neuron(w):
    """Gradient of log cosh(x y): the curvature across the line x = 0 is y**2."""
    slope = math.tanh(w[0] * w[1])
    return np.array([slope * w[1], slope * w[0]])


def path(gradient, w, eta, rho, power, momentum=0.0, buffer=0.0):
    """Yield the iterates of SAM over heavy-ball gradient descent, the start first."""
    while True:
        yield w
        g = gradient(w)
        size = math.sqrt(g @ g)
        lift = rho / size**power if size else 0.0
        buffer = momentum * buffer + gradient(w + lift * g)
        w = w - eta * buffer


def on_the_bounce(gradient, curvature, y, eta, rho, power, momentum=0.0):
    """Yield the iterates from a point (x, y) of the two-point bounce."""
    across = eta / (1 + momentum)
    x = theory.bounce_amplitude(across, rho, curvature(y), power)
    # The buffer that carried the iterate from -x to x.
    buffer = np.array([-2 * x / eta, 0.0])
    return path(gradient, np.array([x, y]), eta, rho, power, momentum, buffer)


def passage(iterates, y_from, y_to):
    """Steps from the first iterate at or below ``y_from`` to the first at or below ``y_to``."""
    below = itertools.dropwhile(lambda w: w[1] > y_from, iterates)
    return sum(1 for _ in itertools.takewhile(lambda w: w[1] > y_to, below))


def predicted_passage(y_from, y_to, *arguments, **more):
    def slowness(y):
        eta, rho = arguments
        return -1 / theory.drift_velocity(eta, rho, 1 + y * y, 2 * y, **more)

    return quad(slowness, y_to, y_from, epsrel=1e-10)[0]


# eta, rho, power, momentum, and how far leading order is off: it grows with rho and momentum.
LEGS = [
    (0.1, 0.02, 1.0, 0.0, 2e-4),
    (0.3, 0.02, 1.0, 0.0, 1e-3),
    (0.3, 0.02, 1.0, 0.5, 1.5e-3),
    (0.3, 0.05, 0.75, 0.5, 1.5e-3),
]


@pytest.mark.parametrize(("eta", "rho", "power", "momentum", "error"), LEGS)
def test_the_time_along_a_valley(eta, rho, power, momentum, error):
    iterates = on_the_bounce(valley, lambda y: 1 + y * y, 1.51, eta, rho, power, momentum)
    predicted = predicted_passage(1.5, 0.75, eta, rho, power=power, momentum=momentum)
    assert passage(iterates, 1.5, 0.75) == pytest.approx(predicted, rel=error)


def test_measured_time_and_path_lengths_along_a_valley():
    start, eta, rho = np.array([0.3, 3.0]), 0.05, 0.1
    assert predicted_passage(3.0, 0.5, eta, rho) == pytest.approx(3005, abs=0.5)
    # The count depends on where on its bounce the run crosses the two levels.
    iterates = on_the_bounce(valley, lambda y: 1 + y * y, 3.0, eta, rho, 1.0)
    assert passage(iterates, 3.0, 0.5) == pytest.approx(3004, abs=2)
    measured = {(0.0, 1.0): 0.301, (rho, 0.0): 0.315, (rho, 1.0): 244.6}
    for (radius, power), length in measured.items():
        points = np.array(list(itertools.islice(path(valley, start, eta, radius, power), 40_001)))
        travel = np.linalg.norm(np.diff(points, axis=0), axis=1)
        assert travel.sum() == pytest.approx(length, rel=2e-3)
        # The bounce goes on for ever; without normalization, or rho, nothing moves any more.
        assert bool(travel[-1] > 1e-3) is (radius * power > 0)


def test_the_whole_vector_with_its_factor_of_finite_step_size():
    def sharp(u):
        return 3 + (u[0] - 1) ** 2 + u[1] ** 2 / 2, np.array([2 * (u[0] - 1), u[1]])

    def gradient(w):
        u, z = w[:2], w[2:]
        flat = 1 + 0.3 * (u[0] + 1) ** 2 + 0.3 * (u[1] - 1) ** 2
        of_flat = np.array([0.6 * (u[0] + 1), 0.6 * (u[1] - 1)])
        f, of_f = sharp(u)
        return np.concatenate([of_f * z[0] ** 2 + of_flat * z[1] ** 2, 2 * z * [f, flat]])

    eta, rho, steps = 0.01, 0.05, 20_000
    u = np.array([0.0, 0.8])
    amplitude = theory.bounce_amplitude(eta, rho, 2 * sharp(u)[0])
    start = np.array([*u, amplitude, 1e-3])
    end = next(itertools.islice(path(gradient, start, eta, rho, 1.0), steps, None))[:2]
    plain = u
    for _ in range(steps):
        f, of_f = sharp(u)
        u = u + theory.drift_velocity(eta, rho, 2 * f, 2 * of_f)
        plain = plain - 0.5 * eta * rho**2 * 2 * sharp(plain)[1]
    moved = np.linalg.norm(end - [0.0, 0.8])
    assert moved > 0.5
    assert np.linalg.norm(u - end) < 3e-4 * moved
    assert np.linalg.norm(plain - end) > 0.02 * moved
    # The end of it all is the minimum of the largest eigenvalue, (1, 0).
    far = next(itertools.islice(path(gradient, start, 0.1, 0.2, 1.0), 20_000, None))[:2]
    assert far == pytest.approx([1.0, 0.0], abs=1e-3)


@pytest.mark.parametrize(("power", "s"), [(0.5, 6.0), (1.0, 2.0), (1.5, 15.0)])
def test_the_velocity_is_the_rate_of_the_single_neuron(power, s):
    y = math.sqrt(s)
    rate = 2 * y * theory.drift_velocity(0.1, 0.05, s, 2 * y, power)
    steps = theory.single_neuron_drift_steps(0.1, 0.05, s * 1.001, s * 0.999, power)
    assert rate == pytest.approx(-0.002 * s / steps, rel=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_step_of_the_single_neuron_shrinks_the_gap_by_an_exact_factor(power):
    # y^2 - x^2 is multiplied by (1 - eta F phi)^2 - (eta F)^2; both laws of the neuron follow.
    eta, rho = 0.3, 0.2
    for x, y in ((0.4, 1.7), (-0.1, 3.0), (1.5, -2.0)):
        steps = path(neuron, np.array([x, y]), eta, rho, power)
        after = list(itertools.islice(steps, 2))[1]
        slope = math.tanh(x * y)
        phi = rho * slope / (abs(slope) * math.hypot(x, y)) ** power
        above = math.tanh((x + phi * y) * (y + phi * x))
        factor = (1 - eta * above * phi) ** 2 - (eta * above) ** 2
        assert after[1] ** 2 - after[0] ** 2 == pytest.approx(factor * (y * y - x * x), rel=1e-12)


# eta, rho, power, momentum, steps between entries, steps
CLOCKED = [
    (0.1, 0.05, 1.0, 0.0, 1, 4000),
    (0.1, 0.05, 0.5, 0.0, 1, 20_000),
    (0.1, 0.05, 0.75, 0.0, 50, 8000),
    (0.3, 0.02, 1.0, 0.0, 1, 4000),
    (0.1, 0.02, 1.0, 0.5, 7, 4200),
    (0.15, 0.01, 1.25, 0.0, 1, 1000),
]


@pytest.mark.parametrize(("eta", "rho", "power", "momentum", "every", "steps"), CLOCKED)
def test_one_curve_on_one_clock(eta, rho, power, momentum, every, steps):
    # d ln(lambda) / d tau = -|grad lambda|^2 / lambda = -4 here, for every setting.
    y = 2.2 if power <= 1 else 3.0
    iterates = on_the_bounce(neuron, lambda y: y * y, y, eta, rho, power, momentum)
    points = np.array(list(itertools.islice(iterates, 0, steps + 1, every)))
    curvature = points[:, 1] ** 2
    tau = theory.drift_clock(eta, rho, curvature, power, momentum, every)
    fallen = np.log(curvature[0] / curvature)
    assert tau.shape == curvature.shape
    assert tau[0] == 0
    assert fallen[-1] > 0.05
    # Leading order in the size of the bounce; the swing of y itself is the absolute error.
    np.testing.assert_allclose(4 * tau[1:], fallen[1:], rtol=0.02, atol=5e-3)
    assert 4 * tau[-1] == pytest.approx(fallen[-1], rel=1e-2)


def test_the_clock_runs_along_the_last_axis():
    history = np.linspace(8, 4, 12).reshape(2, 6)
    rows = [theory.drift_clock(0.1, 0.05, row, 0.75, 0.5, 3) for row in history]
    np.testing.assert_array_equal(theory.drift_clock(0.1, 0.05, history, 0.75, 0.5, 3), rows)
    powers = np.array([[0.5], [1.0]])
    both = theory.drift_clock(0.1, 0.05, history[0], powers)
    np.testing.assert_allclose(both[1], theory.drift_clock(0.1, 0.05, history[0], 1.0))
    # Between entries the speed is linear in time.
    unequal = theory.drift_clock(0.1, 0.05, np.array([5.0, 4.0]), every=10)[1]
    speeds = [-theory.drift_velocity(0.1, 0.05, s, 1.0) for s in (5.0, 4.0)]
    assert unequal == pytest.approx(5 * sum(speeds), rel=1e-12)
    # Its increment is the velocity's factor.
    step = theory.drift_clock(0.1, 0.05, np.array([5.0, 5.0]), 0.75, 0.5)[1]
    assert -step == pytest.approx(theory.drift_velocity(0.1, 0.05, 5.0, 1.0, 0.75, 0.5), rel=1e-12)


def test_arrays_equal_floats():
    gradient = np.array([[1.0, 2.0], [3.0, 4.0]])
    curvature = np.array([[5.0], [6.0]])
    velocity = theory.drift_velocity(0.1, 0.05, curvature, gradient, 0.75)
    floats = [
        [theory.drift_velocity(0.1, 0.05, c[0], g, 0.75) for g in row]
        for c, row in zip(curvature, gradient, strict=True)
    ]
    np.testing.assert_allclose(velocity, floats, rtol=1e-13)
    assert type(theory.drift_velocity(1, 1, 1, 1)) is float


def test_every_bad_argument_is_named(bad_arguments):
    drift = {"eta": 0.1, "rho": 0.05, "lambda_max": 2.0, "power": 0.5, "momentum": 0.05}

    def velocity(**arguments):
        return theory.drift_velocity(gradient_of_lambda_max=-1.0, **arguments)

    def clock(lambda_max_history, **arguments):
        if isinstance(lambda_max_history, float):
            lambda_max_history = np.array([2.0, lambda_max_history])
        return theory.drift_clock(lambda_max_history=lambda_max_history, **arguments)

    positive = set(drift) - {"rho", "momentum"}
    bad_arguments(velocity, drift, positive=positive)
    history = {"lambda_max_history" if k == "lambda_max" else k: v for k, v in drift.items()}
    positive = (positive - {"lambda_max"}) | {"lambda_max_history", "every"}
    bad_arguments(clock, {**history, "every": 2.0}, positive=positive)
    with pytest.raises(ThalwegError, match="gradient_of_lambda_max must be finite"):
        theory.drift_velocity(0.1, 0.1, 1.0, math.nan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_max": 29.99}, None),
        ({"lambda_max": 30.01}, r"eta \* lambda_max / \(1 \+ momentum\) must be < 2"),
        ({"momentum": 1.0}, "momentum must be >= 0 and < 1"),
        ({"power": 1.07, "lambda_max": 2.0}, None),
        ({"power": 1.08, "lambda_max": 2.0}, r"power must be < 2 / \(2 - eta \* lambda_max"),
    ],
)
def test_where_there_is_no_bounce_there_is_no_velocity(arguments, message):
    good = {"eta": 0.1, "rho": 0.05, "lambda_max": 2.0, "power": 1.0, "momentum": 0.5}
    call = functools.partial(theory.drift_velocity, gradient_of_lambda_max=1.0)
    if message is None:
        assert call(**{**good, **arguments}) < 0
        return
    with pytest.raises(ThalwegError, match=message):
        call(**{**good, **arguments})


def test_a_history_is_an_array():
    with pytest.raises(
        ThalwegError, match="lambda_max_history must be an array whose last axis is time"
    ):
        theory.drift_clock(0.1, 0.05, 2.0)
