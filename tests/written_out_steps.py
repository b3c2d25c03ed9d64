"""What the other presets do: some parameters, some steps, g and h combined, several gradients."""

import math

import torch
from written_out import RHO, STEPS, along, dot, norm, of, rate, times

from thalweg import presets
from thalweg.ascent.draws import uniform


def sam(s):
    return s.at(along(s.g))


@of(presets.normalization_only())
def normalization_only(s):
    return s.at([torch.zeros(4, 3), RHO * s.g[1] / s.g[1].norm(), torch.zeros(2, 4)])


@of(presets.sparse(0.4))
def sparse(s):
    pairs = zip(s.g, (5, 2, 3), strict=True)  # of 12, 4 and 8
    least = [x.abs().flatten().sort(descending=True)[0][k - 1] for x, k in pairs]
    return s.at(along([x * (x.abs() >= t) for x, t in zip(s.g, least, strict=True)]))


@of(presets.multi_step(3))
def multi_step(s):
    e = [torch.zeros_like(w) for w in s.w]
    for _ in range(3):
        e = [a + x / 3 for a, x in zip(e, along(s.at(e)), strict=True)]
    return s.at(e)


@of(presets.averaged((0.25, 0.5, 1.5)))
def averaged(s):
    each = [s.at(times(t, along(s.g))) for t in (0.25, 0.5, 1.5)]
    return [sum(some) / 3 for some in zip(*each, strict=True)]


@of(presets.surrogate_gap(0.3, lr_max=0.2, lr_min=0.01, rho_min=0.04))
def surrogate_gap(s):
    rho = 0.04 + (RHO - 0.04) * (rate(s.t) - 0.01) / (0.2 - 0.01)
    h = s.at([rho * x / norm(s.g) for x in s.g])
    share = dot(s.g, h) / norm(h) ** 2
    return [x - 0.3 * (y - share * x) for x, y in zip(h, s.g, strict=True)]


@of(presets.mix(9.0))
def mix(s):
    return [(1 - 9) * x + 9 * y for x, y in zip(s.g, sam(s), strict=True)]


@of(presets.decoupled(9.0))
def decoupled(s):
    s.beside = [9 * (y - x) for x, y in zip(s.g, sam(s), strict=True)]
    return s.g


@of(presets.decoupled(0.5), base="adam")
def decoupled_from_adam(s):
    s.beside = [0.5 * (y - x) for x, y in zip(s.g, sam(s), strict=True)]
    return s.g


@of(presets.stable())
def stable(s):
    h = sam(s)
    return times(norm(s.g) / norm(h), h)


@of(presets.spherical(1.7))
def spherical(s):
    h = sam(s)
    n, m = norm(s.g), norm(h)
    angle = math.acos(dot(s.g, h) / (n * m))
    a, b = math.sin((1 - 1.7) * angle), math.sin(1.7 * angle)
    return [m * (a * x / n + b * y / m) / math.sin(angle) for x, y in zip(s.g, h, strict=True)]


@of(presets.look_back(3, 0.4))
def look_back(s):
    if s.t % 3 == 0:
        h = sam(s)
        share = dot(s.g, h) / norm(s.g) ** 2
        s.kept["v"] = [y - share * x for x, y in zip(s.g, h, strict=True)]
        return h
    v = s.kept["v"]
    return [x + 0.4 * norm(s.g) / norm(v) * y for x, y in zip(s.g, v, strict=True)]


@of(presets.random_gate(0.5, seed=3))
def random_gate(s):
    return sam(s) if uniform(3, s.t) < 0.5 else s.g


@of(presets.adaptive_gate(4, 0.8, -0.9, 0.7))
def adaptive_gate(s):
    q = norm(s.g) ** 2
    mean = 0.7 * s.kept["mean"] + 0.3 * q if s.t else q
    spread = 0.7 * s.kept.get("spread", 0.0) + 0.3 * (q - mean) ** 2
    s.kept.update(mean=mean, spread=spread)
    done = min(s.t / 4, 1)
    bound = mean + ((1 - done) * 0.8 + done * -0.9) * math.sqrt(spread)
    return sam(s) if q >= bound else s.g


@of(presets.late(STEPS, 0.5))
def late(s):
    return sam(s) if s.t >= 3 else s.g


@of(presets.warm_start(2))
def warm_start(s):
    return s.g if s.t < 2 else sam(s)


@of(presets.modern(STEPS, 0.5, m=4, m_ref=16))
def modern(s):
    radii = math.sqrt(4 / 3), math.sqrt(4 / 1), math.sqrt(2 / 4)
    e = [RHO * math.sqrt(4 / 16) * r * x / x.norm() for r, x in zip(radii, s.g, strict=True)]
    return s.at(e) if s.t >= 3 else s.g
