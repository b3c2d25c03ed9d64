"""Random choices that belong to a seed and a step alone, the same on every rank."""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor


def mixed(*numbers: int) -> int:
    """Return a number of 63 bits that depends on all the numbers, and looks random.

    Args:
        numbers: Such as a seed and a step.

    Example:
        >>> mixed(1, 2) == mixed(1, 2), mixed(1, 2) == mixed(2, 1)
        (True, False)
    """
    packed = struct.pack(f"<{len(numbers)}Q", *(n % 2**64 for n in numbers))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def uniform(*numbers: int) -> float:
    """Return a number from [0, 1) that depends on all the numbers, and looks random.

    Args:
        numbers: Such as a seed and a step.

    Example:
        >>> 0 <= uniform(1, 2) < 1
        True
    """
    return mixed(*numbers) / 2**63


def seeded(like: Tensor, *numbers: int) -> Tensor:
    """Return normal noise; torch's generators are not touched.

    Of a sharded tensor every rank draws its part.

    Args:
        like: Whose shape, dtype and device; float32 for 16 bits.
        numbers: Such as a seed and a step.

    Example:
        >>> seeded(torch.zeros(2), 1).shape
        torch.Size([2])
    """
    if hasattr(like, "to_local"):
        part = like.to_local()
        where = like.device_mesh.get_coordinate()  # type: ignore[attr-defined]
        sharding = zip(like.placements, where, strict=True)  # type: ignore[attr-defined]
        numbers += tuple(i for placement, i in sharding if not placement.is_replicate())
        found: Tensor = type(like).from_local(  # type: ignore[attr-defined]
            seeded(part, *numbers),
            like.device_mesh,  # type: ignore[attr-defined]
            like.placements,  # type: ignore[attr-defined]
            shape=like.shape,
            stride=like.stride(),
        )
        return found
    draw = torch.Generator(like.device).manual_seed(mixed(*numbers))
    wide = torch.float32 if like.itemsize == 2 else like.dtype
    return torch.randn(like.shape, generator=draw, dtype=wide, device=like.device)
