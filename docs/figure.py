"""Draw one pair of axes of a saved chart as an SVG file, for the README.

python docs/figure.py RESULTS_FOLDER CLAIM CHART_INDEX AXES_INDEX OUT.svg
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from plotly.offline import get_plotlyjs

from thalweg.report.figures import figure
from thalweg.results import Axes, Chart, ResultsFolder

WIDTH, HEIGHT = 720, 420
PAGE = """<!DOCTYPE html><meta charset="utf-8"><div id="place"></div><pre id="svg"></pre>
<script>{plotly}</script>
<script>
Plotly.toImage({figure}, {{format: "svg", width: {width}, height: {height}}})
  .then((url) => document.getElementById("svg").textContent = url);
</script>
"""


def draw(axes: Axes) -> str:
    drawn = figure(Chart(axes=[axes], caption=""))
    layout = next(layout for width, layout in reversed(drawn["layouts"]) if width <= WIDTH)
    sized = {"data": drawn["data"], "layout": layout | {"width": WIDTH, "height": HEIGHT}}
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("docs/figure.py draws with chromium, which is not installed: install it")
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch, "page.html")
        text = json.dumps(sized).replace("<", "\\u003c")
        page.write_text(
            PAGE.format(plotly=get_plotlyjs(), figure=text, width=WIDTH, height=HEIGHT), "utf-8"
        )
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --virtual-time-budget=20000"
        command = [chromium, *flags.split(), f"--user-data-dir={scratch}/profile", "--dump-dom"]
        dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="svg">data:image/svg\+xml,(.*?)</pre>', dom.stdout, re.DOTALL)
    if found is None:
        sys.exit(f"chromium drew nothing:\n{dom.stderr[-2000:]}")
    return unquote(html.unescape(found[1])) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    folder, claim, chart, axes, out = sys.argv[1:]
    record = ResultsFolder.open(folder).read(claim)
    Path(out).write_text(draw(record.charts[int(chart)].axes[int(axes)]), "utf-8")
