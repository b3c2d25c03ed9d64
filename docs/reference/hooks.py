"""What the site needs beyond Markdown: the examples, formulas, and a check of the reference."""

import ast
import itertools
import re
from html import escape, unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "thalweg"
#: A table with a cell of more characters is read line by line, not column by column.
SENTENCE = 70


def on_files(files, config, **_):
    """Lay the examples beside the pages, which link to them."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        place = f"examples/{path.name}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Let links to the examples lead there (a folder has no page), and the findings have room.

    What stands in an item of a list is set in by three spaces on the code host, here by four.
    """
    if page.file.src_uri == "findings.md":
        page.meta["hide"] = ["toc"]  # its table needs the width
    markdown = re.sub(r"\[([^\]]*)\]\(\.\./examples\)", r"\1", markdown)
    markdown = markdown.replace("](../examples/", "](examples/")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    parts[::2] = map(in_items, parts[::2])
    return "".join(parts)


def in_items(markdown):
    """Text within items of a numbered list, set in as the site wants it."""
    markdown = re.sub(r"^   (?=> |\w)", "    ", markdown, flags=re.M)
    return re.sub(r"^(    .*\n)(?=\d+\. )", r"\1\n", markdown, flags=re.M)


def on_page_content(html, **_):
    """Turn formulas into MathML, and let tables of sentences be read on a phone."""
    html = re.sub(
        r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', formula, html, flags=re.S
    )
    return re.sub(r"<table>.*?</table>", labelled, html, flags=re.S)


def formula(found):
    """A formula that browsers show without a script."""
    display = "block" if found[1] == "div" else "inline"
    return convert(unescape(found[2]).strip(), display=display)


def text(cell):
    """What is read of a cell."""
    return unescape(re.sub(r"<[^>]+>", "", cell)).strip()


def labelled(found):
    """A table in which each cell knows the name of its column, if it holds sentences."""
    heads, cells = (
        re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", found[0], re.S) for tag in ("th", "td")
    )
    if max(len(text(cell)) for cell in cells) < SENTENCE:
        return found[0]
    names = itertools.cycle(escape(text(head), quote=True) for head in heads)
    return re.sub("<td", lambda _: f'<td data-label="{next(names)}"', found[0])


def public(path: Path) -> list[str]:
    """The names in ``__all__`` of a file; none where there is no such list."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def on_post_build(config, **_):
    """Raise where a public name has no place in the reference, or a docstring is not Markdown."""
    pages = "".join(p.read_text("utf-8") for p in Path(config.site_dir, "reference").glob("*.html"))
    left = set(
        re.findall(r":\w+:<code>|\.\. \w+::|\\[(\[]", re.sub(r"(?s)<pre.*?</pre>", "", pages))
    )
    if left:
        raise PluginError(f"docs/reference/docstrings.py must turn {sorted(left)} into Markdown")
    shown = set(re.findall(r'id="(thalweg[\w.]*)"', pages))
    wanted = set()
    for path in [*SOURCE.rglob("__init__.py"), SOURCE / "compat.py"]:
        module = ".".join(["thalweg", *path.relative_to(SOURCE).with_suffix("").parts])
        module = module.removesuffix(".__init__")
        wanted |= {f"{module}.{name}" for name in public(path)}
    wanted -= {f"thalweg.{path.stem}" for path in SOURCE.iterdir()} | {"thalweg.__version__"}
    # A function that is named as its file hides behind it.
    shown |= {name.rpartition(".")[0] for name in shown if re.search(r"\.(\w+)\.\1$", name)}
    if wanted - shown:
        raise PluginError(
            f"the reference must have every public name, got none of {sorted(wanted - shown)}: "
            "give each a docstring, and its module a page in docs/reference"
        )
