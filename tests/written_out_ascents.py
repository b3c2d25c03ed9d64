"""What the presets do that change ε: each formula in plain tensor code, beside its preset."""

import math

import torch
from written_out import KEEP, RHO, along, norm, of, times

from thalweg import presets
from thalweg.ascent.draws import seeded


@of(presets.sam())
def sam(s):
    return s.at([RHO * x / norm(s.g) for x in s.g])


@of(presets.usam())
def usam(s):
    return s.at([RHO * x for x in s.g])


@of(presets.power(0.5))
def power_half(s):
    return s.at([RHO * x / norm(s.g) ** 0.5 for x in s.g])


@of(presets.power(2, max_norm=0.08))
def power(s):
    length = min(RHO / norm(s.g), 0.08)
    return s.at([length * x / norm(s.g) for x in s.g])


@of(presets.unified(0.3))
def unified(s, share=0.3):
    return s.at([RHO * (1 - share + share / norm(s.g)) * x for x in s.g])


@of(presets.unified())
def unified_from_usam_to_sam(s):
    return unified(s, share=1 - 1 / (s.t + 1))


@of(presets.monge())
def monge(s):
    n = norm(s.g)
    return s.at([RHO * x / (n * math.sqrt(1 + n * n)) for x in s.g])


@of(presets.micro_batch(m=4, m_ref=16, power=0.5), parts=2)
def micro_batch(s):
    rho = RHO * (4 / 16) ** ((2 - 0.5) / 2)
    return s.at([rho * x / norm(s.g) ** 0.5 for x in s.g])


def in_units(s, units):
    """ε = ρ S² g / ‖S g‖."""
    stretched = [t * x for t, x in zip(units, s.g, strict=True)]
    return s.at([RHO * t * x / norm(stretched) for t, x in zip(units, stretched, strict=True)])


@of(presets.asam(0.05))
def asam(s):
    """Of the three only the first has "weight" in its name."""
    return in_units(s, [s.w[0].abs() + 0.05, 1.0, 1.0])


@of(presets.asam_all(0.05))
def asam_all(s):
    return in_units(s, [w.abs() + 0.05 for w in s.w])


@of(presets.fisher(0.2))
def fisher(s):
    return in_units(s, [(x * x + 0.2) ** -0.5 for x in s.g])


@of(presets.adam_metric(1e-6), base="adam")
def adam_metric(s):
    if s.t == 0:
        return s.at(along(s.g))
    hats = [v / (1 - KEEP**s.t) for v in s.base["v"]]
    return in_units(s, [(v + 1e-6) ** -0.25 for v in hats])


@of(presets.largest_entry(0.05))
def largest_entry(s):
    t = [s.w[0].abs() + 0.05, 1.0, 1.0]
    return s.at([RHO * a * x.sign() for a, x in zip(t, s.g, strict=True)])


@of(presets.per_tensor())
def per_tensor(s):
    return s.at([RHO * x / x.norm() for x in s.g])


RADII = math.sqrt(4 / 3), math.sqrt(4 / 1), math.sqrt(2 / 4)


@of(presets.spectral_radius())
def spectral_radius(s, rho=RHO):
    return s.at([rho * r * x / x.norm() for r, x in zip(RADII, s.g, strict=True)])


@of(presets.trust_ratio())
def trust_ratio(s):
    return s.at([RHO * w.norm() * x / x.norm() for w, x in zip(s.w, s.g, strict=True)])


def singular(x):
    return torch.linalg.svd(x if x.ndim == 2 else x[:, None], full_matrices=False)


@of(presets.spectral_ball())
def spectral_ball(s):
    parts = [singular(x) for x in s.g]
    e = [RHO * r * u @ vt for r, (u, _, vt) in zip(RADII, parts, strict=True)]
    return s.at([x.view_as(g) for x, g in zip(e, s.g, strict=True)])


@of(presets.nuclear())
def nuclear(s):
    e = [RHO * u[:, :1] @ vt[:1] for u, _, vt in map(singular, s.g)]
    return s.at([x.view_as(g) for x, g in zip(e, s.g, strict=True)])


@of(presets.friendly(0.7, 0.8))
def friendly(s):
    m = s.kept["m"] = [0.8 * a + 0.2 * x for a, x in zip(s.before("m"), s.g, strict=True)]
    return s.at(along([x - 0.7 * a for a, x in zip(m, s.g, strict=True)]))


@of(presets.variance_suppressed(0.3))
def variance_suppressed(s):
    d = s.kept["d"] = [0.7 * a + 0.3 * x for a, x in zip(s.before("d"), s.g, strict=True)]
    return s.at(along(d))


@of(presets.momentum())
def momentum(s):
    return s.at(times(-1, along(s.base["m"])))


@of(presets.momentum("exp_avg"), base="adam")
def momentum_of_adam(s):
    return momentum(s)


@of(presets.previous_gradient())
def previous_gradient(s):
    s.kept["h"] = s.at(along(s.before("h")))
    return s.kept["h"]


@of(presets.gaussian(3, per_filter=False))
def gaussian_by_entry(s):
    return s.at([RHO * seeded(w, 3, s.t, 0, i) for i, w in enumerate(s.w)])


@of(presets.gaussian(3))
def gaussian(s):
    noise = [seeded(w, 3, s.t, 0, i) for i, w in enumerate(s.w)]
    e = [z * w.norm(dim=-1, keepdim=True) for z, w in zip(noise, s.w, strict=True)]
    e = [x / z.norm(dim=-1, keepdim=True) for x, z in zip(e, noise, strict=True)]
    return s.at(times(RHO, e))
