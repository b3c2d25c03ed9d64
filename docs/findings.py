"""Write docs/findings.md and its figures from a results folder.

python docs/findings.py RESULTS_FOLDER [OUT.md]
"""

import argparse
from pathlib import Path

from figure import draw

from thalweg.report.findings import markdown
from thalweg.results import ResultsFolder
from thalweg.results.folder import write_whole

WIDTH = 960

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    default = Path(__file__).with_name("findings.md")
    parser.add_argument("out", nargs="?", type=Path, default=default)
    asked = parser.parse_args()
    text, figures = markdown(ResultsFolder.open(asked.results))
    folder = asked.out.parent / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*-[0-9].svg"):
        old.unlink()
    for name, svg in zip(figures, draw(list(figures.values()), WIDTH), strict=True):
        write_whole(folder / name, svg)
    write_whole(asked.out, text)
