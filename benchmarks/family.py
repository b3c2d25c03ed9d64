"""What each method of the family adds to its gradients, beside plain SAM.

    python benchmarks/family.py [--rounds 60] [--threads 1] [--quick] [--write docs/family.md]

All take their turn in one process; the page says how. About eight minutes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if os.getloadavg()[0] < 1:  # threads that spin would cost a busy machine far more
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from family_least import least
from overhead_contestants import RHO, SETTINGS, Contestant, Stopwatch
from overhead_nets import FULL, QUICK, Task
from overhead_page import KEPT
from overhead_timing import Interval, bootstrap, keep_freed_memory, middle
from page_head import begin, put, verdict
from torch import Tensor

import thalweg
from thalweg import presets
from thalweg.ascent import L2

#: Of plain SAM's own work, for Euclidean balls; of a plain step, for one gradient.
AT_MOST, ONE_GRADIENT = 1.5, 1.02
#: What a preset must be told that has no default.
GIVEN = {"total": 400, "first": 200, "m": 16, "m_ref": 64}
PLAIN, SAM = "plain step", "sam"
CPU = torch.device("cpu")
#: Rounds by task, unless told otherwise; of methods that take seconds on the wide network, few.
ROUNDS = {"small": 60, "mlp": 18, "resnet": 7}
SLOW, FEW = ("sparse", "nuclear", "spectral_ball"), 4
METHOD = """\
*Least* is the memory that a method must read and write beside its gradients, as a multiple of what
plain SAM must: no program that goes through lists of this size as often as the formula says can
have a smaller ratio where memory is what takes the time.

*Own work* is all that a step does beyond gradients and the step of the base optimizer (SGD with
momentum; AdamW for `adam_metric`), as in [overhead.md](overhead.md); what a method hangs on that
step is its own. Every method has a network of
its own that begins with the same weights, and all take one timed step a round, after one that
nobody times, in an order that changes. Medians over {rounds} rounds ({few} of the ResNet), on the
wide network over {least} of {slow}; ratios are taken round by round; in brackets their
95 % interval (bootstrap over rounds, percentiles). *{kept}* is the wide network once more,
when glibc keeps what is freed: else it gives large blocks back to the system, and whoever
allocates every step pays for new pages every step.

A gated method is timed over {span} steps in a row. *Its share* is how many of them were perturbed;
its *cost* is what all steps take longer than plain ones, as a share of what SAM's take longer.
"""


class Plain(Contestant):
    """A training step without SAM."""

    def step(self, watch: Stopwatch) -> None:
        watch.outside(self.gradient)
        watch.outside(self.optimizer.step)
        watch.outside(self.optimizer.zero_grad)


class Family(Contestant):
    """A step of a method through thalweg's loop."""

    def __init__(self, task: Task, method: thalweg.Method, *, adam: bool = False) -> None:
        self._adam = adam
        super().__init__(task, CPU)
        self.perturbed = 0
        # What a method hangs on the optimizer's step is its own work: its hooks come after this.
        self._base = 0.0
        self.optimizer.register_step_post_hook(self._stepped)
        self.sam = thalweg.SAM(self.optimizer, self.model, rho=RHO, method=method)
        self.optimizer.register_step_pre_hook(self._begins)

    def _begins(self, *_: object) -> None:
        self._base = -Stopwatch.clock()

    def _stepped(self, *_: object) -> None:
        self._base += Stopwatch.clock()

    def _optimizer(self) -> torch.optim.Optimizer:
        if self._adam:
            return torch.optim.AdamW(self.parameters, lr=SETTINGS["lr"])
        return super()._optimizer()

    def step(self, watch: Stopwatch) -> None:
        for _ in self.sam.passes():
            watch.outside(self.gradient)
        self.perturbed += self.sam.last.moved
        self.optimizer.step()
        watch.everyones += self._base
        watch.outside(self.optimizer.zero_grad)


def methods() -> dict[str, thalweg.Method]:
    """Return every preset that finds parameters to move in these networks."""
    found = {}
    for card in presets.cards():
        if card.name == "normalization_only":  # these networks have no such layers
            continue
        missing = {name: GIVEN[name] for name in card.arguments if name not in card.defaults}
        found[card.name] = getattr(presets, card.name)(**missing)
    return found


def contestant(name: str, task: Task, known: dict[str, thalweg.Method]) -> Contestant:
    if name == PLAIN:
        return Plain(task, CPU)
    return Family(task, known[name], adam=name == "adam_metric")


def in_turn(who: dict[str, Contestant], rounds: int, unseen: int) -> dict[str, dict[str, Tensor]]:
    """Return the seconds of everyone's whole steps and own work, (rounds,) each."""
    whole: dict[str, list[float]] = {name: [] for name in who}
    own: dict[str, list[float]] = {name: [] for name in who}
    for turn in range(rounds + 1):
        names = list(who)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for name in names[:: -1 if turn % 2 else 1]:
            for _ in range(unseen):
                who[name].step(Stopwatch(CPU))
            watch = Stopwatch(CPU)
            who[name].step(watch)
            seconds = watch.stop()
            if turn:
                whole[name].append(seconds[0])
                own[name].append(seconds[1])
    tensors = {"whole": whole, "own": own}
    return {
        kind: {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}
        for kind, times in tensors.items()
    }


def ratio(times: Tensor, others: Tensor) -> Interval:
    return bootstrap(lambda pick: middle((times / others)[pick]), len(times))


def told(found: Interval, digits: int = 2) -> str:
    low, value, high = found
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def judged(found: Interval, most: float) -> str:
    low, value, high = found
    return verdict(value <= most, (low <= most) == (high <= most))


def own_times(
    key: str, task: Task, known: dict[str, thalweg.Method], rounds: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the seconds of everyone's own work, and of plain SAM's in the same rounds."""
    print(task.title, file=sys.stderr)
    slow = [name for name in SLOW if name in known and key == "mlp"]
    found = {}
    for names, count in (([n for n in known if n not in slow], rounds), (slow, min(FEW, rounds))):
        who = {name: contestant(name, task, known) for name in dict.fromkeys([SAM, *names])}
        own = in_turn(who, count, task.unseen)["own"] if names else {}
        found |= {name: (own[name], own[SAM]) for name in names}
    return found


def own_work(
    known: dict[str, thalweg.Method], measured: dict[str, dict[str, tuple[Tensor, Tensor]]]
) -> list[str]:
    """The table of own work beside plain SAM's, by the titles of the networks."""
    lines = [
        "## Own work",
        "",
        f"Target: at most {AT_MOST} times that of plain SAM, for Euclidean balls. By network:",
        "times plain SAM's with a 95 % interval, milliseconds, verdict ([how](#how)).",
        "",
        f"| method | gradients | least | {' | ms | | '.join(measured)} | ms | |",
        "|---|---|---|" + "---|---|---|" * len(measured),
    ]
    for name, method in always(known).items():
        floor = least(method)
        cells = [f"`{name}`", str(method.passes), f"{floor:.2f}" if floor == floor else ""]
        for times in measured.values():
            own, sams = times[name]
            found = ratio(own, sams)
            target = isinstance(method.ball, L2) and method.passes == 2
            verdict = judged(found, AT_MOST) if target else ""
            cells += [told(found), f"{1e3 * float(middle(own)):.2f}", verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def always(known: dict[str, thalweg.Method]) -> dict[str, thalweg.Method]:
    """Return the methods whose every step is perturbed, by a gradient."""
    return {n: m for n, m in known.items() if m.gate == known[SAM].gate and m.looks}


def one_gradient(task: Task, known: dict[str, thalweg.Method], rounds: int) -> list[str]:
    """The table of methods that take one gradient, beside a plain step of the ResNet."""
    print(task.title, file=sys.stderr)
    names = [PLAIN, *(n for n, m in known.items() if m.passes == 1)]
    who = {name: contestant(name, task, known) for name in names}
    times = in_turn(who, rounds, 0)
    whole, own = times["whole"], times["own"]
    lines = [
        "## One gradient",
        "",
        f"Target: at most {ONE_GRADIENT} times a plain training step. {task.title}. The verdict is",
        "on a plain step and a method's own work; whole steps differ by more than that from round",
        "to round.",
        "",
        "| method | own work and a plain step, of a plain step | verdict | a whole step of one |",
        "|---|---|---|---|",
    ]
    for name in names[1:]:
        found = ratio(whole[PLAIN] + own[name], whole[PLAIN])
        cells = told(found, 4), judged(found, ONE_GRADIENT), told(ratio(whole[name], whole[PLAIN]))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return [*lines, ""]


def gated(task: Task, known: dict[str, thalweg.Method], rounds: int, span: int) -> list[str]:
    """The table of gated methods: what their share says, and what they cost."""
    print(f"{task.title}, gates", file=sys.stderr)
    names = [PLAIN, SAM, *(n for n, m in known.items() if m.gate != known[SAM].gate)]
    who = {name: contestant(name, task, known) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[:: -1 if turn % 2 else 1]:
            one = who[name]
            before = getattr(one, "perturbed", 0)
            watch = Stopwatch(CPU)
            for _ in range(span):
                one.step(watch)
            if turn:
                times[name].append(watch.stop()[0])
                shares[name].append((getattr(one, "perturbed", 0) - before) / span)
    seconds = {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}
    lines = ["## Gates", "", f"{task.title}.", "", "| method | its share | cost |", "|---|---|---|"]
    for name in names[2:]:
        more, sam = seconds[name] - seconds[PLAIN], seconds[SAM] - seconds[PLAIN]
        share = float(torch.tensor(shares[name]).mean())
        # Of sums: in a round all steps of a gate, or none, may be perturbed.
        cost = bootstrap(lambda pick, m=more, s=sam: m[pick].sum(-1) / s[pick].sum(-1), len(more))
        lines.append(f"| `{name}` | {share:.2f} | {told(cost)} |")
    return [*lines, ""]


def page(options: argparse.Namespace, load: float) -> str:
    tasks = QUICK if options.quick else FULL
    known = methods()
    few, span = (2, 5) if options.quick else (ROUNDS["resnet"], 20)
    rounds = {key: options.rounds or many for key, many in ROUNDS.items()}
    measured = {}
    for key in ("mlp", "small"):
        measured[tasks[key].title] = own_times(key, tasks[key], always(known), rounds[key])
    after = one_gradient(tasks["resnet"], known, few)
    after += gated(tasks["small"], known, rounds["small"] // 3 + 1, span)
    if not options.quick and keep_freed_memory():  # for good: it comes last
        again = f"{tasks['mlp'].title}, {KEPT}"
        measured[again] = own_times("mlp", tasks["mlp"], always(known), rounds["mlp"])
    lines = begin(
        "What the methods of the family cost",
        "family.py",
        {"torch": torch.__version__, "thalweg": thalweg.__version__},
        load=load,
        where=f"; threads: {options.threads}",
        warning="Tiny networks, for a test: the numbers mean nothing." if options.quick else "",
    )
    lines += own_work(known, measured) + after
    many = " and ".join(str(n) for n in sorted({rounds["small"], rounds["mlp"]}, reverse=True))
    slow = ", ".join(f"`{name}`" for name in SLOW)
    how = METHOD.format(rounds=many, few=few, span=span, kept=KEPT, slow=slow, least=FEW)
    return "\n".join([*lines, "## How", "", how])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="60 and 18, if not given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try it out")
    parser.add_argument("--write", type=Path, help="the file to write the page to")
    options = parser.parse_args(words)
    load = os.getloadavg()[0]
    torch.set_num_threads(options.threads)
    put(page(options, load), options.write)


if __name__ == "__main__":
    main()
