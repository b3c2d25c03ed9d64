"""Write the output, the figures and the quoted numbers of choosing-rho.md anew.

python docs/choosing_rho.py
"""

import argparse
import re
import runpy
import sys
import textwrap
from pathlib import Path

import torch

import thalweg.diagnose
from thalweg.diagnose.page import charts

HERE = Path(__file__).parent
PAGE, SOURCE = HERE / "choosing-rho.md", HERE / "recommendation.md"
WIDTH = 1140


def diagnosis(name: str) -> thalweg.diagnose.Diagnosis:
    """Return the diagnosis of an example."""
    path = HERE.parent / "examples" / f"diagnose_{name}.py"
    return thalweg.diagnose(*runpy.run_path(str(path))["build"]())


def with_output(page: str, name: str, found: thalweg.diagnose.Diagnosis) -> str:
    """Return the page with what an example's command prints, or with its first lines."""
    command = re.search(rf"\$ python examples/diagnose_{name}\.py(?: \| head -(\d+))?\n", page)
    assert command is not None, name
    output = "\n".join(str(found).splitlines()[: int(command[1]) if command[1] else None])
    end = page.index("```", command.end())
    return f"{page[: command.end()]}{output}\n{page[end:]}"


def regret(source: str) -> str:
    """Return the sentence on what the recommendation costs, from recommendation.md."""
    tasks = re.search(r"^On (\d+) fresh tasks", source, re.M)
    number = r"\+([\d.]+) ± ([\d.]+) \[[^]]*\] \(worst task ([\d.]+)\)"
    head = re.compile(
        rf"^\*diagnose\* \(c = ([\d.]+)\) {number}, the default {number}, "
        rf"the claim's single ρ {number}\.$",
        re.M,
    )
    found = head.search(source)
    assert tasks is not None
    assert found is not None
    costs = [f"{float(found[i]):.1f} ± {float(found[i + 1]):.1f}" for i in (2, 5, 8)]
    worst = [found[i] for i in (4, 7, 10)]
    verdicts = re.findall(r"^- \*diagnose\* minus .*: ([a-z ]+)\.$", source, re.M)
    assert verdicts == ["clearly less", "no difference shown"], "the page says so in words"
    return (
        f"On {tasks[1]} tasks on which nothing was fitted, what it recommends costs {costs[0]} "
        f"points of accuracy against the best rho of a grid, rho = .05 costs {costs[1]}, and one "
        f"rho fitted on the other tasks {costs[2]}; the worst task loses {worst[0]}, {worst[1]} "
        f"and {worst[2]} points. That is clearly less than .05, and no difference from the fitted "
        "rho is shown ([how that was measured](recommendation.md))."
    )


def with_regret(page: str, source: str) -> str:
    """Return the page with that sentence as its one quotation."""
    lines = textwrap.wrap(regret(source), 95, break_on_hyphens=False, break_long_words=False)
    text = "".join(f"   > {line}\n" for line in lines)
    page, count = re.subn(r"(?:^   > .*\n)+", lambda _: text, page, flags=re.M)
    assert count == 1
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sys.path.insert(0, str(HERE))
    import figure

    torch.set_num_threads(1)
    text = with_regret(PAGE.read_text(encoding="utf-8"), SOURCE.read_text(encoding="utf-8"))
    for name in ("convnet", "transformer"):
        found = diagnosis(name)
        text = with_output(text, name, found)
        (svg,) = figure.draw(charts(found)[:1], WIDTH)
        (HERE / "figures" / f"choosing-rho-{name}.svg").write_text(svg, encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
