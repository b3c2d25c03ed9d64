"""The checks as a list, each of them a function with a title, and the verdicts they give."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thalweg.errors import ThalwegError, brief, number, whole
from thalweg.testing.protocol import BaseFactory, Driver, Failed, NotOffered, SAMFactory, Setup

#: The base optimizer of the checks that need none in particular.
PLAIN_SGD = functools.partial(torch.optim.SGD, lr=0.1)


@dataclass(frozen=True)
class Bench:
    """What a check works with.

    Attributes:
        base: The base optimizer under test, or the check's own.
        sam: The candidate.
        power: The normalization p.
        long: At most so many steps in the long checks.
    """

    base: BaseFactory
    sam: SAMFactory
    power: float = 1.0
    long: int = 1000

    def driver(self) -> Driver:
        """Return a driver that can be asked what it offers."""
        model = nn.Linear(2, 2, bias=False)
        return self.sam(Setup(self.base, list(model.parameters()), model, 0.1, self.power))

    def forms(self) -> list[str]:
        """Return the names of the candidate's forms."""
        return list(self.driver().forms)


@dataclass(frozen=True)
class Result:
    """What came of a check.

    Attributes:
        check: Its name.
        title: What it checks.
        verdict: "passed", "failed" or "not offered".
        reason: One line; empty where it passed.
    """

    check: str
    title: str
    verdict: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the candidate does what the title says."""
        return self.verdict == "passed"

    def __str__(self) -> str:
        return f"{self.verdict:<12} {self.title}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Check:
    """One row of the suite; call it with a base optimizer factory and a SAM factory.

    Attributes:
        name: A short name.
        title: What must hold, in words.
        subject: Which part of the suite it belongs to.
        work: The check itself; raises where the candidate fails.
        per_form: Whether ``work`` is run for every form of the driver.
        depends_on_base: Whether the given base optimizer is used; else plain SGD is.
        depends_on_power: Whether another ``power`` makes another check.
        of_formula: Whether it compares with SAM's formula, which other methods do not follow.
    """

    name: str
    title: str
    subject: str
    work: Callable[..., None]
    per_form: bool = True
    depends_on_base: bool = False
    depends_on_power: bool = False
    of_formula: bool = False

    def __str__(self) -> str:
        return self.name

    def __call__(
        self, base: BaseFactory, sam: SAMFactory, *, power: float = 1.0, long: int = 1000
    ) -> Result:
        """Run the check. Torch's random state is put back afterwards.

        Args:
            base: Builds the base optimizer.
            sam: Builds the candidate around it.
            power: The normalization p, for the checks that depend on it.
            long: At most so many steps in the long checks; fewer make a quick look.

        Returns:
            The verdict; an exception of the candidate is a failure, told in the reason.
        """
        bench = Bench(
            base if self.depends_on_base else PLAIN_SGD,
            sam,
            power if self.depends_on_power else 1.0,
            long,
        )
        reasons: dict[str, str] = {}
        forms: list[str] = []
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self.of_formula and not bench.driver().plain:
                    raise NotOffered("SAM as it is written out")
                forms = bench.forms() if self.per_form else [""]
                for form in forms:
                    reason = self._reason(bench, form)
                    if reason:
                        reasons[form] = reason
        except NotOffered as absent:
            return Result(self.name, self.title, "not offered", str(absent))
        except Exception as error:
            reasons = dict.fromkeys(forms, told(error)) or {"": told(error)}
        if not reasons:
            return Result(self.name, self.title, "passed")
        alike = len(reasons) == len(forms) and len(set(reasons.values())) == 1
        lines = [why if alike or not form else f"{form}: {why}" for form, why in reasons.items()]
        return Result(self.name, self.title, "failed", lines[0] if alike else "; ".join(lines))

    def _reason(self, bench: Bench, form: str) -> str:
        torch.manual_seed(0)
        try:
            self.work(bench, form) if self.per_form else self.work(bench)
        except NotOffered:
            raise
        except Exception as error:
            return told(error)
        return ""


#: Every check, by name, in the order of the table.
CHECKS: dict[str, Check] = {}


def check(title: str, **how: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a function into :data:`CHECKS` under its own name.

    Args:
        title: What must hold, in words.
        **how: Fields of :class:`Check`; ``name`` where it is not the function's.
    """

    def enter(work: Callable[..., None]) -> Callable[..., None]:
        name = how.pop("name", None) or work.__name__
        subject = work.__globals__["__name__"].rpartition(".")[2]
        CHECKS[name] = Check(name, title, subject, work, **how)
        return work

    return enter


def run(
    base: BaseFactory,
    sam: SAMFactory,
    checks: Iterable[str | Check] | None = None,
    *,
    power: float = 1.0,
    long: int = 1000,
) -> list[Result]:
    """Run checks on a SAM, from a plain script.

    Args:
        base: Builds the base optimizer: ``base(params)``.
        sam: Builds the candidate: ``sam(setup)`` returns a :class:`Driver`.
        checks: Names or checks; all of them unless told otherwise.
        power: The normalization p, for the checks that depend on it.
        long: At most so many steps in the long checks; fewer make a quick look.

    Returns:
        One result for each check.

    Raises:
        ThalwegError: If there is no check of a name.

    Example:
        >>> import functools
        >>> from thalweg import testing
        >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
        >>> for result in testing.run(sgd, testing.thalweg_driver, ["m_sam"]):
        ...     print(result)
        passed       m-SAM equals the formula written out
    """
    for name, factory in (("base", base), ("sam", sam)):
        if not callable(factory):
            raise ThalwegError(
                f"{name} must be a function that builds it, got {brief(factory)}: write "
                "run(lambda params: SGD(params, lr=0.1), thalweg_driver)"
            )
    if isinstance(checks, str) or not isinstance(checks, Iterable | None):
        raise ThalwegError(
            f"checks must be a list of names or None, got {brief(checks)}: write "
            "run(base, sam, [name])"
        )
    power, long = number("power", power, at_least=0), whole("long", long, at_least=1)
    chosen = []
    for wanted in CHECKS if checks is None else checks:
        found = wanted if isinstance(wanted, Check) else CHECKS.get(str(wanted))
        if found is None:
            raise ThalwegError(
                f"checks must be names in testing.CHECKS, got {brief(wanted)}: choose among "
                f"{', '.join(CHECKS)}"
            )
        chosen.append(found)
    return [each(base, sam, power=power, long=long) for each in chosen]


def told(error: BaseException) -> str:
    """Return an error as one line, with its type where it is not the suite's own."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, Failed) else f"{type(error).__name__}: {line}".rstrip(": ")
