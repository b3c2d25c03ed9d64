"""Real data that needs no download: what scikit-learn carries."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import extra

#: 1797 images, half of what is not trained on for validation, half for the test.
TOTAL = 1797


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Return the images (1797, 64), scaled to [-1, 1], float32, and the labels (1797,)."""
    with extra("lab", by=__name__):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.data / 8 - 1, dtype=torch.float32)
    return images, torch.tensor(bunch.target, dtype=torch.int64)


@functools.cache
def breast_cancer() -> tuple[Tensor, Tensor]:
    """Return 30 measurements of 569 tumours, (569, 30), float64, and the labels (569,).

    The label is 1 where the tumour is benign, 0 where it is malignant.

    Example:
        >>> features, labels = breast_cancer()
        >>> tuple(features.shape), int(labels.sum())
        ((569, 30), 357)
    """
    with extra("lab", by=__name__):
        from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return torch.tensor(bunch.data, dtype=torch.float64), torch.tensor(bunch.target)


@dataclass(frozen=True)
class Split:
    """One seed's division of the digits.

    Attributes:
        train: Which images are trained on.
        labels: Their labels, some of them replaced.
        validation: Which images choose hyper-parameters; their labels are the true ones.
        test: Which images are reported on; their labels are the true ones.
    """

    train: Tensor
    labels: Tensor
    validation: Tensor
    test: Tensor


@functools.lru_cache(maxsize=256)
def split(seed: int, n_train: int, label_noise: float) -> Split:
    """Return the division of the digits that belongs to a seed.

    The images depend on the seed alone, not on the noise; which labels are noisy does too.

    Args:
        seed: The seed.
        n_train: How many images to train on.
        label_noise: The share of the training labels that are drawn anew, uniformly from the ten
            digits, so that one in ten of them falls on the true one.

    Returns:
        The division.

    Example:
        >>> s = split(0, 600, 0.3)
        >>> len(s.train), len(s.validation), len(s.test)
        (600, 598, 599)
    """
    rng = np.random.default_rng([seed, 0])
    order = torch.tensor(rng.permutation(TOTAL))
    train, rest = order[:n_train], order[n_train:]
    _, targets = digits()
    labels = targets[train].clone()
    noisy = torch.tensor(rng.permutation(n_train)[: round(label_noise * n_train)])
    labels[noisy] = torch.tensor(rng.integers(0, 10, len(noisy)))
    half = len(rest) // 2
    return Split(train, labels, rest[:half], rest[half:])
