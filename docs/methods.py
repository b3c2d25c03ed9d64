"""Write docs/methods.md from what the presets say of themselves.

python docs/methods.py [OUT.md]
"""

import argparse
from pathlib import Path

from thalweg.presets import MISSING, Card, cards
from thalweg.results.folder import write_whole

HEAD = """# Methods

Written by `python docs/methods.py` from the docstrings of `thalweg.presets`; do not edit. Every
method is a choice of parts, `thalweg.Method(...)`; a preset is one with a name:

```python
import torch

import thalweg
from thalweg import presets

model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sam = thalweg.SAM(optimizer, model, rho=0.05, method=presets.per_tensor())
```

Parts of presets mix: `dataclasses.replace(presets.asam(), gate=presets.late(1000).gate)`;
[parts of your own](your-own-method.md) mix with them. What each preset was worth on our real data:
[race](race.md); what its steps cost: [family](family.md).

In the formulas g is the gradient at w, h that at w + ε, u what the base optimizer gets; products
and norms are those of all parameters together, where no index says otherwise. Gradients are counted
a step, the base optimizer alone taking 1. Memory is what comes on top of one copy of the perturbed
parameters. "Authors only" means that the paper reports it, and that we know of no one else; numbers
are theirs. Every formula is tested to ten digits (`tests/test_presets_formulas.py`).

| preset | what it does | gradients | evidence |
|---|---|---|---|
"""
END = """
## What no preset expresses

| method | why |
|---|---|
"""


def section(known: Card) -> str:
    """A preset with all that is known of it."""
    parts = {
        "Formula": f"`{known.formula}`",
        "ρ": known.rho,
        **{f"`{name}`": meaning for name, meaning in known.arguments.items()},
        "Cost": known.cost,
        "Memory": known.memory,
        "Evidence": known.evidence,
        "Source": known.source,
    }
    lines = "\n".join(f"- {name}: {text}" for name, text in parts.items())
    return f"\n## {known.name}\n\n`presets.{known.call}`: {known.summary}\n\n{lines}\n"


def markdown() -> str:
    """The whole page."""
    rows = [
        f"| [{c.name}](#{c.name}) | {c.summary} | {c.gradients} | {c.verdict} |\n" for c in cards()
    ]
    missing = [f"| {names} | {reason} |\n" for names, reason in MISSING.items()]
    return "".join([HEAD, *rows, *map(section, cards()), END, *missing])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).with_name("methods.md"))
    write_whole(parser.parse_args().out, markdown())
