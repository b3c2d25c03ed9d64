"""Write docs/findings.md and its figures from a results folder.

python docs/findings.py RESULTS_FOLDER [OUT.md]
"""

import sys
from pathlib import Path

from figure import draw

from thalweg.report.findings import markdown
from thalweg.results import ResultsFolder
from thalweg.results.folder import write_whole

WIDTH = 960

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    results = ResultsFolder.open(sys.argv[1])
    out = Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent / "findings.md")
    text, figures = markdown(results)
    folder = out.parent / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*-[0-9].svg"):
        old.unlink()
    for name, svg in zip(figures, draw(list(figures.values()), WIDTH), strict=True):
        write_whole(folder / name, svg)
    write_whole(out, text)
