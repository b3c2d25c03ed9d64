"""Docstrings as the site shows them.

In the source they are written to be read in a terminal, with Sphinx' roles for names and formulas;
the site reads Markdown.
"""

import re
import textwrap

import griffe

#: Text that ends with two colons, and the code below it.
LITERAL = re.compile(r"^( *)([^\n]*?)::\n\n((?:\1 +[^\n]*(?:\n|\Z)|\n)+)", re.M)
MATH_BLOCK = re.compile(r"^( *)\.\. math::([^\n]*(?:\n\1 +[^\n]+)*)", re.M)
TABLE = re.compile(r"^( *)=[ =]+\n([^\n]+\n)\1=[ =]+\n((?:[^\n]+\n)+?)\1=[ =]+$", re.M)
FORMULA = re.compile(r"^Formula:\n((?: +[^\n]*\n)+)", re.M)


def code(found: re.Match[str]) -> str:
    """Fence a block of code."""
    indent, text, lines = found.groups()
    head = f"{indent}{text}:\n\n" if text.strip() else ""
    fenced = f"```python\n{textwrap.dedent(lines).strip()}\n```"
    return f"{head}{textwrap.indent(fenced, indent)}\n\n"


def table(found: re.Match[str]) -> str:
    """Write a table with bars between its columns."""
    indent, head, lines = found.groups()
    rows = [re.split(r"  +", row.strip()) for row in [head, *lines.splitlines()]]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)


def markdown(text: str) -> str:
    """Return a docstring in Markdown."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    text = TABLE.sub(table, text)
    text = MATH_BLOCK.sub(lambda m: f"\n{m[1]}\\[{' '.join(m[2].split())}\\]\n", text)
    text = re.sub(r":math:`([^`]+)`", lambda m: f"\\({' '.join(m[1].split())}\\)", text)
    text = FORMULA.sub(lambda m: f"Formula:\n    `{' '.join(m[1].split())}`\n", text)
    text = re.sub(r":(?:class|func|meth|mod|attr):`([^`]+)`", r"`\1`", text)
    return LITERAL.sub(code, text)


def comment(lines: list[str]) -> str:
    """Return the comment that begins with ``#:`` where these lines end."""
    said: list[str] = []
    for line in reversed(lines):
        if not line.startswith("#:"):
            break
        said.insert(0, line[2:].strip())
    return " ".join(said)


class Words(griffe.Extension):
    """Turns every docstring into Markdown as soon as it is read."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: object) -> None:
        """Take the comment above a constant or a type for its docstring."""
        if attr.docstring is None and attr.parent is not None and attr.parent.is_module:
            said = comment(attr.lines_collection[attr.filepath][: (attr.lineno or 1) - 1])
            attr.docstring = griffe.Docstring(markdown(said), parent=attr) if said else None

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Mend one."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
