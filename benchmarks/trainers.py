"""What SAM through a trainer costs beside the plain SAM loop in the same trainer.

    python benchmarks/trainers.py [--rounds 40] [--steps 12] [--quick] [--write docs/trainers.md]

Everything runs in one process, on one thread, the two of a trainer in turn; the page says how.
About two minutes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from overhead_timing import Interval, bootstrap, middle
from page_head import begin, put, verdict
from torch import Tensor
from trainers_contestants import CONTESTANTS, FULL, QUICK, Task

import thalweg

TARGET = 1.03

METHOD = """\
A trainer is timed with thalweg's integration, and once more with the loop over `passes()` written
by hand where the trainer lets one write it: in Lightning manual optimization, which does less than
the automatic one, or an `optimizer_step` of one's own around its closure; in Transformers a
`training_step` of one's own; in Accelerate its documented loop around `thalweg.SAM` itself. What
the trainer costs without SAM is thus on both sides.

The model, the data, the order of the batches and the base optimizer (SGD with
momentum) are the same; nothing is accumulated, clipped, logged, saved or evaluated.

In every round each trains anew for {steps} steps, in an order that changes every round. A step
lasts from the start of its batch to the start of the next one, so that all that the trainer does is
in it; the first two are left out, and the median of the others is the round's. The table has the
medians over {rounds} rounds, also of the ratio, which is taken round by round; in brackets its 95 %
interval (bootstrap over rounds, percentiles). After every round the weights of the two are
compared: the same bits.
"""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=12, help="of each in every round")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to try it out")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    if options.steps < 5 or options.rounds < 1:
        parser.error("--steps must be 5 or more, and --rounds 1 or more")
    return options


def in_turn(trainer: str, task: Task, rounds: int, steps: int, folder: str) -> list[Tensor]:
    """Milliseconds of a step in every round: through the integration, and by hand."""
    pair = CONTESTANTS[trainer]
    found: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        weights: list[list[Tensor]] = [[], []]
        for which in (0, 1) if turn % 2 else (1, 0):
            starts, weights[which] = pair[which](task, steps, folder)
            lengths = torch.tensor(starts, dtype=torch.float64).diff()[2:]
            if turn:  # the first round is warm-up
                found[which].append(1e3 * float(middle(lengths)))
        if not all(torch.equal(a, b) for a, b in zip(*weights, strict=True)):
            raise SystemExit(f"{trainer}: the two did not train the same weights")
    return [torch.tensor(values, dtype=torch.float64) for values in found]


def ratio(times: Sequence[Tensor]) -> Interval:
    """The ratio round by round: the two of a round stood in the same weather."""
    through, by_hand = times
    return bootstrap(lambda pick: middle((through / by_hand)[pick]), len(through))


def page(
    found: dict[str, list[Tensor]], task: Task, steps: int, load: float | None, *, quick: bool
) -> str:
    names = ("torch", "lightning", "transformers", "accelerate")
    lines = begin(
        "What SAM through a trainer costs",
        "trainers.py",
        {name: metadata.version(name) for name in names} | {"thalweg": thalweg.__version__},
        load=load,
        warning="A tiny network, for a test: the numbers mean nothing." if quick else "",
    )
    lines += [
        f"Target: at most {TARGET} times the plain SAM loop of the same model in the conditions of",
        f"the same trainer. {task.title}, one thread.",
        "",
        "| trainer | a step with SAM, ms | by hand, ms | ratio | verdict |",
        "|---|---|---|---|---|",
    ]
    for trainer, times in found.items():
        low, value, high = ratio(times)
        told = verdict(value <= TARGET, (low <= TARGET) == (high <= TARGET))
        ms = [f"{float(middle(each)):.2f}" for each in times]
        cells = [trainer, *ms, f"{value:.3f} [{low:.3f}, {high:.3f}]", told]
        lines.append(f"| {' | '.join(cells)} |")
    rounds = len(next(iter(found.values()))[0])
    return "\n".join([*lines, "", METHOD.format(steps=steps, rounds=rounds)])


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    torch.set_num_threads(1)
    task = QUICK if options.quick else FULL
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for trainer in CONTESTANTS:
            begun = time.perf_counter()
            found[trainer] = in_turn(trainer, task, options.rounds, options.steps, folder)
            print(f"{trainer}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    text = page(found, task, options.steps, load, quick=options.quick)
    put(text, options.write)


if __name__ == "__main__":
    main()
