"""What SAM adds to a step beyond its two gradients and the base step, beside pytorch_optimizer's.

    python benchmarks/overhead.py [--model mlp --model small --model resnet] [--threads 1 2]
                                  [--rounds 60] [--device cpu] [--clock wall] [--quick]
                                  [--write docs/overhead.md]

All contestants run in one process, in turn. The page says how time and memory are measured. With
everything on, the CPU takes about a quarter of an hour, most of it for the ResNet.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# For a quiet machine only: threads that sleep at once make a step of two threads eight times as
# long and leave every cache cold. Beside a busy neighbour threads that spin would cost far more.
if os.getloadavg()[0] < 1:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory; it need not talk

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from overhead_contestants import Stopwatch
from overhead_memory import extra
from overhead_nets import FULL, QUICK, Task
from overhead_page import KEPT, page
from overhead_timing import Timing, apart, in_turn, keep_freed_memory
from page_head import put


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", choices=list(FULL), help="all, if not given")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, help="60, 200 and 5, if not given")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try it out")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: time of the one thread alone"
    )
    options = parser.parse_args(words)
    if options.clock == "cpu" and (options.threads != [1] or options.device.type != "cpu"):
        parser.error("--clock cpu is the time of one thread: add --threads 1, on the CPU")
    return options


def timed(key: str, task: Task, options: argparse.Namespace) -> list[Timing]:
    timings = []
    for threads in options.threads:
        print(f"{task.title}, threads: {threads}", file=sys.stderr)
        timings.append(
            in_turn(
                key,
                task,
                threads=threads,
                rounds=options.rounds or task.rounds,
                warm_up=1 if key == "resnet" or options.quick else 3,
                device=options.device,
            )
        )
    return timings


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    Stopwatch.clock = time.thread_time if options.clock == "cpu" else time.perf_counter
    tasks = QUICK if options.quick else FULL
    timings = []
    for key in options.model or tasks:
        timings += timed(key, tasks[key], options)
    if "mlp" in (options.model or tasks) and options.device.type == "cpu" and keep_freed_memory():
        again = dataclasses.replace(tasks["mlp"], title=f"{tasks['mlp'].title}, {KEPT}")
        timings += timed("mlp", again, options)
    print("memory", file=sys.stderr)
    memory = extra(options.device)
    same = apart(QUICK.values())
    text = page(timings, memory, options.device, same, load, quick=options.quick)
    put(text, options.write)


if __name__ == "__main__":
    main()
