"""SAM spoiled on purpose: what a claim says of SAM must not be found of these."""

from thalweg.ascent import Method

PERTURBATION = Method.perturbation


def no_rho(self, gradient, rho, *args, **named):
    return PERTURBATION(self, gradient, 0 * rho, *args, **named)


def other_sign(self, *args, **named):
    found = PERTURBATION(self, *args, **named)
    return found._replace(factor=-found.factor)


def always_normalized(self, gradient, rho, power=None, **named):
    return PERTURBATION(self, gradient, rho, 1.0, **named)


def never_normalized(self, gradient, rho, power=None, **named):
    return PERTURBATION(self, gradient, rho, 0.0, **named)
