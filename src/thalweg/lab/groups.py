"""Cells of one seed side by side: what they share enters a batched product once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """The cells of a grid sorted by seed, S seeds with up to K cells each.

    Attributes:
        seeds: The different seeds, rising, (S,).
        cells: The cells of each seed, (S, K); a seed with fewer than K repeats its first.
        slots: Where in the flattened ``cells`` a cell is found first, (B,).

    Example:
        >>> groups = Groups.of(torch.tensor([7, 3, 7]))
        >>> groups.cells.tolist(), groups.slots.tolist()
        ([[1, 1], [0, 2]], [2, 0, 3])
    """

    seeds: Tensor
    cells: Tensor
    slots: Tensor

    @classmethod
    def of(cls, seeds: Tensor) -> Groups:
        """Sort the cells of these seeds, (B,)."""
        unique, member, counts = torch.unique(seeds, return_inverse=True, return_counts=True)
        order = torch.argsort(member, stable=True)
        first = torch.cumsum(counts, 0) - counts
        widest = int(counts.max()) if len(counts) else 0
        turn = torch.arange(widest, device=seeds.device)
        turn = torch.where(turn < counts[:, None], turn, 0)
        slots = torch.empty_like(order)
        slots[order] = torch.arange(len(order), device=seeds.device) - first[member[order]]
        return cls(unique, order[first[:, None] + turn], slots + widest * member)

    def entries(self, columns: Tensor, width: int) -> Tensor:
        """Return where chosen columns lie in the flattened (B, width), sorted: (S, K, C) flat."""
        return (self.cells[:, :, None] * width + columns).flatten()

    def back(self, columns: Tensor, width: int) -> Tensor:
        """Return where chosen columns lie in the flattened (S, K, width), by cell: (B, C) flat."""
        return (self.slots[:, None] * width + columns).flatten()
