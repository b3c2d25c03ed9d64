"""Draw saved charts as SVG files, with the browser and the style of the page.

python docs/figure.py RESULTS_FOLDER CLAIM CHART_INDEX AXES_INDEX OUT.svg
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from plotly.offline import get_plotlyjs

from thalweg.report.figures import figure
from thalweg.results import Chart, ResultsFolder

WIDTH, HEIGHT = 720, 420
PAGE = """<!DOCTYPE html><meta charset="utf-8"><div id="place"></div><pre id="svgs"></pre>
<script>
let drawn = 1;  // plotly names its parts at random: the same names every time
Math.random = () => (drawn = (drawn * 16807) % 2147483647) / 2147483647;
</script>
<script>{plotly}</script>
<script>
(async () => {{
  const out = [];
  for (const one of {figures}) {{
    drawn = out.length + 1;
    const {{width, height}} = one.layout;
    out.push(await Plotly.toImage(one, {{format: "svg", width: width, height: height}}));
  }}
  document.getElementById("svgs").textContent = out.join("\\n");
}})();
</script>
"""


def draw(charts: Sequence[Chart], width: int, height: int | None = None) -> list[str]:
    """Return every chart as the text of an SVG file.

    Args:
        charts: What to draw.
        width: In pixels; the layout of a page of this width is taken.
        height: In pixels; what that layout needs if ``None``.
    """
    figures = []
    for chart in charts:
        drawn = figure(chart)
        layout = next(layout for page, layout in reversed(drawn["layouts"]) if page <= width)
        sized = layout | {"width": width} | ({} if height is None else {"height": height})
        figures.append({"data": drawn["data"], "layout": sized})
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("figures are drawn with chromium, which is not installed: install it")
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch, "page.html")
        text = json.dumps(figures).replace("<", "\\u003c")
        page.write_text(PAGE.format(plotly=get_plotlyjs(), figures=text), "utf-8")
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --virtual-time-budget=120000"
        command = [chromium, *flags.split(), f"--user-data-dir={scratch}/profile", "--dump-dom"]
        dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="svgs">(data:image/svg.*?)</pre>', dom.stdout, re.DOTALL)
    if found is None:
        sys.exit(f"chromium drew nothing:\n{dom.stderr[-2000:]}")
    return [unquote(html.unescape(line)).partition(",")[2] + "\n" for line in found[1].splitlines()]


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    folder, claim, chart, axes, out = sys.argv[1:]
    record = ResultsFolder.open(folder).read(claim)
    one = Chart(axes=[record.charts[int(chart)].axes[int(axes)]], caption="")
    Path(out).write_text(draw([one], WIDTH, HEIGHT)[0], "utf-8")
