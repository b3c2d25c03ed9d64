"""Write the output and the figures of choosing-rho.md anew, from its own two commands.

python docs/choosing_rho.py
"""

import re
import runpy
from pathlib import Path

import figure
import torch

import thalweg.diagnose
from thalweg.diagnose.page import charts

HERE = Path(__file__).parent
PAGE = HERE / "choosing-rho.md"
WIDTH = 1140


def main() -> None:
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    for name in ("convnet", "transformer"):
        path = HERE.parent / "examples" / f"diagnose_{name}.py"
        found = thalweg.diagnose(*runpy.run_path(str(path))["build"]())
        output = f"```\n$ python examples/{path.name}\n{found}\n```"
        start = re.escape(f"```\n$ python examples/{path.name}\n")
        text, count = re.subn(start + r".*?```", lambda _, out=output: out, text, flags=re.S)
        assert count == 1, path.name
        (svg,) = figure.draw(charts(found)[:1], WIDTH)
        (HERE / "figures" / f"choosing-rho-{name}.svg").write_text(svg, encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
