"""The C twin of the single-neuron map: built where there is a compiler, called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("scalar_map.c")
FLAGS = ["-O3", "-march=native", "-ffast-math", "-fopenmp"]
#: Nothing that changes a result, an infinity or a NaN; else there would be no vectors.
EXACT_FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
EXACT = "C, every rounding as written"
#: The orders of its loops, and what they are called in a table.
ORDERS = {"blocks": "C, a block of cells at a time", "rows": "C, a step of all cells at a time"}


def compiler() -> str | None:
    """The C compiler, where there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path, flags: list[str] = FLAGS) -> ctypes.CDLL:
    """Compile the map into a folder, which must be another for other flags, and load it.

    It is linked apart: were -ffast-math there too, loading it would flush denormals to zero in
    this process, for everyone.
    """
    command = compiler()
    assert command is not None
    folder.mkdir(parents=True, exist_ok=True)
    out, library = folder / "scalar_map.o", folder / "scalar_map.so"
    for words in (
        [*flags, "-fPIC", "-c", SOURCE, "-o", out],
        ["-shared", "-fopenmp", out, "-o", library, "-lm"],
    ):
        subprocess.run([command, *words], check=True)
    return ctypes.CDLL(str(library))


def run(
    library: ctypes.CDLL,
    order: str,
    loss: str,
    power: float,
    start: tuple[float, float],
    eta: np.ndarray,
    rho: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take the steps on two threads; return x and y of every cell of the grid."""
    shape = np.broadcast_shapes(eta.shape, rho.shape)
    arrays = [np.broadcast_to(v, shape).ravel().astype(float) for v in (eta, rho, *start)]
    name = ("sqrt_loss" if loss == "sqrt" else loss) + ("" if power == 1 else "_power")
    pointer = ctypes.POINTER(ctypes.c_double)
    getattr(library, f"{name}_{order}")(
        ctypes.c_long(arrays[0].size),
        ctypes.c_long(steps),
        ctypes.c_double(power),
        *(a.ctypes.data_as(pointer) for a in arrays),
    )
    x, y = arrays[2:]
    return x.reshape(shape), y.reshape(shape)


def plain_numpy(
    loss: str,
    power: float,
    start: tuple[float, float],
    eta: np.ndarray,
    rho: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same, as one would write it in numpy."""
    shape = np.broadcast_shapes(eta.shape, rho.shape)
    eta, rho, x, y = (np.broadcast_to(v, shape).ravel().astype(float) for v in (eta, rho, *start))
    link = np.tanh if loss == "log_cosh" else lambda z: z / np.sqrt(1 + z * z)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            slope = link(x * y)
            gx, gy = slope * y, slope * x
            norm = np.sqrt(gx * gx + gy * gy)
            factor = np.where(norm > 0, rho / norm if power == 1 else rho * norm**-power, 0.0)
            up, over = x + factor * gx, y + factor * gy
            slope = link(up * over)
            x, y = x - eta * slope * over, y - eta * slope * up
    return x.reshape(shape), y.reshape(shape)
