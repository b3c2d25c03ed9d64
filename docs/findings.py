"""Write docs/findings.md from a results folder.

python docs/findings.py RESULTS_FOLDER [OUT.md]
"""

import sys
from pathlib import Path

from thalweg.report.findings import markdown
from thalweg.results import ResultsFolder
from thalweg.results.folder import write_whole

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    out = Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent / "findings.md")
    write_whole(out, markdown(ResultsFolder.open(sys.argv[1])))
