"""What ``thalweg methods`` prints: the family as a table, or all that is known of one preset."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

import typer

from thalweg.presets import MISSING, Card, card, cards

_WIDTH = 92
_ABOUT = (
    "Name, gradients a step (the base optimizer alone takes 1), evidence; what it does;\n"
    "arguments and defaults; formula, where g is the gradient at w, h at w + ε, u what the base\n"
    "optimizer gets.\n"
    "All that is known of one: thalweg methods NAME. What no preset expresses: --all."
)


def run(name: str | None, *, json_: bool, all_: bool) -> None:
    """Print the family, or one preset.

    Args:
        name: Of a preset; ``None`` for the table of all.
        json_: Whether to print JSON: a list of presets, or one.
        all_: Whether to list the methods, too, that no preset expresses, each with the reason. As
            JSON that is one object, with ``"presets"`` and ``"missing"``.

    Raises:
        ThalwegError: If there is no preset of that name.
    """
    if json_:
        found: Any = row(card(name)) if name else [row(each) for each in cards()]
        if all_:
            found = {"presets": [found] if name else found, "missing": MISSING}
        typer.echo(json.dumps(found))
    elif name:
        typer.echo(page(card(name)))
    else:
        typer.echo("\n".join(map(entry, cards())))
        typer.echo(f"\n{_ABOUT}")
    if all_ and not json_:
        typer.echo("\nNot expressed by a Method:")
        for names, reason in MISSING.items():
            typer.echo(_folded(f"{names}: {reason}"))


def row(known: Card) -> dict[str, Any]:
    """Return what is known of a preset, for JSON.

    Args:
        known: What is known.

    Example:
        >>> row(card("usam"))["formula"]
        'ε = ρ g,  u = h'
    """
    return asdict(known) | {"gradients": known.gradients, "verdict": known.verdict}


def entry(known: Card) -> str:
    """Return a preset as a few lines of the list.

    Args:
        known: What is known.

    Example:
        >>> print(entry(card("mix")))
        mix                   2            Authors only
            The gradient and SAM's in a fixed share; above 1 more than SAM (GNP, coupled WSAM).
            k=0.8
            ε = ρ g / ‖g‖,  u = (1-k) g + k h
    """
    words = known.call.removeprefix(known.name)[1:-1]
    lines = [
        textwrap.indent(textwrap.fill(line, _WIDTH), "    ")
        for line in (known.summary, words, known.formula)
    ]
    head = f"{known.name:21} {known.gradients:12} {known.verdict}"
    return "\n".join([head, *filter(None, lines)])


def page(known: Card) -> str:
    """Return all that is known of a preset as text.

    Args:
        known: What is known.

    Example:
        >>> print(page(card("usam")).splitlines()[0])
        thalweg.presets.usam()
    """
    arguments = [_folded(f"{name}: {meaning}") for name, meaning in known.arguments.items()]
    parts = ("formula", "rho", "cost", "memory", "evidence", "source")
    rest = [_folded(f"{part}: {getattr(known, part)}") for part in parts]
    head = f"thalweg.presets.{known.call}"
    return "\n".join([head, textwrap.fill(known.summary, _WIDTH), *arguments, *rest])


def _folded(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="      ")
