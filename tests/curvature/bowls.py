"""A quadratic whose sharpness is known, and a network on digits."""

import torch
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from torch import nn

RHO = 0.7
BATCHES = [torch.zeros(4, 1)]  # a quadratic does not look at them


class Quadratic(nn.Module):
    """g·(w − w₀) + ½ (w − w₀)ᵀH(w − w₀), whose parameters are two tensors, at w₀."""

    def __init__(self, eigenvalues, slope=1.0, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        size = len(eigenvalues)
        q, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
        self.hessian = q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T
        self.gradient = slope * torch.randn(size, generator=draw, dtype=torch.float64)
        self.start = torch.randn(size, generator=draw, dtype=torch.float64)
        self.one = nn.Parameter(self.start[:2].clone().view(1, 2))
        self.two = nn.Parameter(self.start[2:].clone())

    def forward(self, x):
        e = torch.cat([self.one.flatten(), self.two]) - self.start
        return self.gradient @ e + e @ self.hessian @ e / 2


def value(model, batch):
    return model(batch)


SPECTRA = {
    "convex": [5.0, 3.0, 1.0, 0.5, 0.1],
    "indefinite": [2.0, 1.0, 0.0, -1.0, -6.0],
    "concave": [-0.01, -0.1, -0.5, -1.0, -4.0],
    "flat": [0.0] * 5,
    "top inside": [-4.0, -5.0, -6.0, -7.0, -8.0],
}


def largest_rise(gradient, hessian, rho):
    """The maximum over the ball, from the secular equation ‖(μ − H)⁻¹g‖ = ρ."""
    lambdas, q = torch.linalg.eigh(hessian)
    c = q.T @ gradient

    def length(mu):
        return float(((c / (mu - lambdas)) ** 2).sum().sqrt())

    low = max(float(lambdas[-1]), 0.0) + 1e-13
    high = low + 1 + float(c.norm()) / rho
    inside = length(low) <= rho
    mu = low if inside else brentq(lambda mu: length(mu) - rho, low, high, xtol=1e-15)
    e = q @ (c / (mu - lambdas))
    return float(gradient @ e + e @ hessian @ e / 2), inside


DIGITS = load_digits()
X = torch.tensor(DIGITS.data / 16, dtype=torch.float64)
Y = torch.tensor(DIGITS.target)


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 10)
    ).double()


def batches(*sizes):
    return list(zip(X[: sum(sizes)].split(sizes), Y[: sum(sizes)].split(sizes), strict=True))
