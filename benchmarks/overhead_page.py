"""The page that the overhead benchmark writes: targets first, then what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import torch
from overhead_contestants import OURS, ZERO
from overhead_timing import Timing
from page_head import begin, verdict

import thalweg

#: Of what pytorch_optimizer's better mode adds, and of the whole step.
SHARE, STEP = 0.6, 0.3

#: Told of a network that is timed once more, with an allocator that keeps its memory.
KEPT = "freed memory kept"

METHOD = f"""\
A SAM step is two forwards and backwards, a base step (SGD with momentum) and what SAM adds. Two
measurements of that:

- **own work**, which decides: the time of a real step outside its forwards and backwards (with what
  it takes to free their graphs), its base step and the last `zero_grad`. The `zero_grad` between
  the passes counts as SAM's, for everyone.
- **difference**: the whole step less that of two gradients and a base step, round by round. It
  also sees what SAM leaves in the caches, and all the noise of the forwards and backwards.

All contestants run in one process, each with a model of its own, and take one timed step a round,
in an order that changes every round. Medians over the rounds; in brackets the 95 % interval of the
median (bootstrap over rounds, percentiles). The share compares own work with that of
pytorch_optimizer's better mode, the one whose own work is smaller. *by hand* is SAM written out in
a training script; *{ZERO}* moves nothing and is the zero of the scale.

Who allocates tensors of this size in every step pays for new pages in every step, where the
allocator gives large blocks back to the system, as glibc's does unless told otherwise. Own work
then counts pages that the next backward is spared, and the difference does not. *{KEPT}* is
the MLP once more with `mallopt` told to give nothing back: there the two should agree.
"""

MEMORY = """\
Beyond two gradients and a base step, in copies of the perturbed parameters: at the peak of a step,
and between steps. Counted exactly, from every allocation and release that torch's own allocator
reports, temporaries inside operations included; 24 layers of 256 × 256, batch 4, third step.
"""


def head(device: torch.device, load: float | None, *, quick: bool) -> list[str]:
    versions = {
        "torch": torch.__version__,
        "thalweg": thalweg.__version__,
        "pytorch_optimizer": metadata.version("pytorch_optimizer"),
    }
    where = f"; {torch.cuda.get_device_name(device)}" if device.type != "cpu" else ""
    warning = "Tiny networks, for a test: the numbers mean nothing." if quick else ""
    return begin(
        "What SAM adds to a step",
        "overhead.py",
        versions,
        load=load,
        where=where,
        warning=warning,
    )


def targets(timings: Sequence[Timing], memory: dict[str, tuple[float, float]]) -> list[str]:
    lines = [
        "## Targets",
        "",
        "| target | threads | own work | verdict | difference |",
        "|---|---|---|---|---|",
    ]
    for timing in timings:
        if timing.key == "resnet":
            low, middle, high = timing.percent(OURS)
            aim, told = f"under {STEP} % of the step", f"{middle:.3f} % [{low:.3f}, {high:.3f}]"
            met, sure = middle < STEP, (high < STEP) == (low < STEP)
            low, middle, high = (100 * ms / timing.reference for ms in timing.difference(OURS))
            other = f"{middle:.1f} % [{low:.1f}, {high:.1f}]"
        else:
            low, middle, high = timing.share(OURS)
            aim, told = f"at most {SHARE} of the peer's", f"{middle:.2f} [{low:.2f}, {high:.2f}]"
            met, sure = middle <= SHARE, (high <= SHARE) == (low <= SHARE)
            low, middle, high = timing.share_of_difference(OURS)
            other = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        cells = [f"{timing.title}: {aim}", str(timing.threads), told, verdict(met, sure), other]
        lines.append(f"| {' | '.join(cells)} |")
    peak = memory[OURS][0]
    told = verdict(round(peak, 2) <= 1, True)
    lines.append(f"| extra memory at the peak: at most one copy | | {peak:.2f} | {told} | |")
    return [*lines, ""]


def digits(ms: float) -> str:
    return f"{ms:.3f}" if abs(ms) < 100 else f"{ms:.0f}"


def times(timing: Timing) -> list[str]:
    lines = [
        f"### {timing.title}, {timing.threads} thread{'s' if timing.threads > 1 else ''}",
        "",
        f"Two gradients and a base step take {digits(timing.reference)} ms. "
        f"{timing.rounds} rounds. "
        f"Better mode of the peer: `{timing.better}`.",
        "",
        "| | own work, ms | % of the step | share of the peer's better mode | difference, ms |",
        "|---|---|---|---|---|",
    ]
    for name in timing.own:
        low, middle, high = map(digits, timing.own_work(name))
        cells = [f"{middle} [{low}, {high}]", f"{timing.percent(name)[1]:.2f}"]
        low, middle, high = timing.share(name)
        cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        low, middle, high = map(digits, timing.difference(name))
        cells.append("0" if name == ZERO else f"{middle} [{low}, {high}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def page(
    timings: Sequence[Timing],
    memory: dict[str, tuple[float, float]],
    device: torch.device,
    apart: float,
    load: float | None,
    *,
    quick: bool = False,
) -> str:
    """Return the whole page, in Markdown."""
    lines = head(device, load, quick=quick) + targets(timings, memory)
    lines += ["## Time", "", METHOD]
    lines += [
        "Nobody is timed doing less: after three steps in float64, on small copies of these",
        "networks, all have the weights of *by hand* at the same power, up to a distance of",
        f"{apart:.0e} of how far those went.",
        "",
    ]
    for timing in timings:
        lines += times(timing)
    lines += ["## Memory", "", MEMORY, "| | at the peak | between steps |", "|---|---|---|"]
    for name, (peak, live) in memory.items():
        lines.append(f"| {name} | {max(0, peak):.2f} | {max(0, live):.2f} |")
    return "\n".join(lines) + "\n"
