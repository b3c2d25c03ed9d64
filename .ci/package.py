"""Build the package, read what is in it, and use it where little else is installed.

    .venv/bin/python .ci/package.py

Each environment here holds what thalweg needs with one extra, as links to the packages of the
environment that this runs in: nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parents[1]
CONSUMER = ROOT / ".ci" / "consumer.py"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: Extras that bring tools, and no module of thalweg.
TOOLS = {"dev", "docs"}
#: Only the command imports them, which has asked for its extra before.
VERB = "_verb"
SENTENCE = re.compile(
    r"MissingExtraError: [\w. ]+ needs \w+, which is not installed: pip install 'thalweg\[(\w+)\]'"
)
#: torch says this itself, when it is imported.
QUIETLY = ("-I", "-W", "error", "-W", "ignore:Failed to initialize NumPy")
PROBE = """
import importlib, json, pkgutil, thalweg
told = {}
for module in pkgutil.walk_packages(thalweg.__path__, "thalweg."):
    try:
        importlib.import_module(module.name)
        told[module.name] = ""
    except ImportError as error:
        told[module.name] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
#: Around the first example of the README.
BEFORE = """
import torch, thalweg
from torch import nn
model, loss_fn = nn.Linear(4, 2), nn.functional.cross_entropy
loader = [(torch.randn(16, 4), torch.randint(0, 2, (16,))) for _ in range(3)]
start = model.weight.detach().clone()
"""
AFTER = """
assert sam.last.moved and not torch.equal(model.weight, start)
"""


def must(held: bool, message: str) -> None:
    if not held:
        sys.exit(f"package: {message}")


def run(*command: str | Path, place: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command, and end here if it does not end as it should."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "MYPY"))}
    told = subprocess.run(command, capture_output=True, text=True, cwd=place, env=clean)
    shown = f"{' '.join(map(str, command))}\nended with {told.returncode}"
    must(told.returncode == code, f"{shown}\n{told.stdout}{told.stderr}")
    return told


def same(what: str, found: set[str], wanted: set[str]) -> None:
    much, little = sorted(found - wanted), sorted(wanted - found)
    must(found == wanted, f"{what} must hold what the tree does: too much {much}, missing {little}")


def tree(folder: Path) -> set[str]:
    """Return the files below a folder that .gitignore does not name, relative to the root."""
    ignored = GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text().splitlines()).match_file
    found = set()
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(ROOT)
        folders[:] = [name for name in folders if name != ".git" and not ignored(f"{here / name}/")]
        found |= {(here / name).as_posix() for name in files if name != ".git"}
    return {name for name in found if not ignored(name)}


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from the tree, and the wheel from the sdist."""
    for need in map(Requirement, CONFIG["build-system"]["requires"]):
        have = metadata.version(need.name)
        must(have in need.specifier, f"{need} must be installed to build, got {have}")
    hatch = (sys.executable, "-m", "hatchling", "build", "-d", folder, "-t")
    run(*hatch, "sdist", place=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    run(*hatch, "wheel", place=folder / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        files = {m.name.partition("/")[2]: m.size for m in packed.getmembers() if m.isfile()}
    same("the sdist", set(files) - {"PKG-INFO"}, tree(ROOT))
    large = [name for name, size in files.items() if size > 1_000_000]
    must(not large, f"a file of the sdist must be below 1 MB, got {large}")


def check_wheel(wheel: Path) -> Message:
    """Check what is in the wheel; return its metadata."""
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        (card,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        found = HeaderParser().parsestr(packed.read(card).decode())
    home = card.removesuffix("METADATA")
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    sources = {name.removeprefix("src/") for name in tree(ROOT / "src")}
    same("the wheel", names, sources | {home + name for name in about})
    must("thalweg/py.typed" in names, "the wheel must hold thalweg/py.typed")
    tests = [n for n in names if Path(n).name.startswith(("test_", "conftest"))]
    must(not tests, f"the wheel must hold no test, got {tests}")
    core = [text for text in found.get_all("Requires-Dist") if "extra ==" not in text]
    must(
        [Requirement(t).name for t in core] == ["torch"], f"the core needs torch alone, got {core}"
    )
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    must(cited is not None and cited[1] == found["Version"], "CITATION.cff has another version")
    must(f"## {found['Version']}" in (ROOT / "CHANGELOG.md").read_text(), "CHANGELOG.md lacks it")
    return found


def closure(card: Message, extra: str) -> set[str]:
    """Return the distributions that thalweg needs with an extra ("" for none), and what they do."""
    seen: set[tuple[str, str]] = set()
    texts = [(text, extra) for text in card.get_all("Requires-Dist")]
    while texts:
        text, wanted = texts.pop()
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": wanted}):
            continue
        for one in {"", *need.extras}:
            if (key := (canonicalize_name(need.name), one)) not in seen:
                seen.add(key)
                texts += [(more, one) for more in metadata.requires(need.name) or ()]
    return {name for name, _ in seen}


def environment(home: Path, wheel: Path, card: Message, extra: str) -> Path:
    """Make an environment with thalweg, its extra, and no more; return its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", home, place=home.parent)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    for name in closure(card, extra):
        held = metadata.distribution(name)
        for top in {file.parts[0] for file in held.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(held.locate_file(top))
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python")
    wanted = f"thalweg[{extra}] @ {wheel.as_uri()}"
    run(*pip, python, "install", "--no-index", "--quiet", wanted, place=home)
    return python


def check_core(python: Path) -> None:
    """Where torch is all there is, it trains, and the command names its extra."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example, *_) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    run(python, *QUIETLY, "-c", BEFORE + example + AFTER, place=python.parent)
    run(python, *QUIETLY, CONSUMER, place=python.parent)
    for command in ((python.parent / "thalweg",), (python, "-m", "thalweg", "edge")):
        told = run(*command, place=python.parent, code=2).stderr
        wanted = "thalweg: the command needs typer, which is not installed: pip install "
        must(told == f"{wanted}'thalweg[lab]'\n", f"the command must name its extra, got {told!r}")


def check_lab(python: Path) -> None:
    """Where the extra lab is, the command makes its page from what the wheel holds.

    mypy reads the types of the wheel here: those of the theory are of numpy, too. torch's
    ``backward`` has none.
    """
    command = python.parent / "thalweg"
    claims = json.loads(run(command, "study", "--list", "--json", place=python.parent).stdout)
    least = min(claims, key=lambda claim: claim["seconds"]["quick"])["claim"]
    words = ("study", "--quick", "--only", least, "--out", "results")
    run(command, *words, place=python.parent)
    must((python.parent / "results" / "report.html").stat().st_size > 10_000, "the page is empty")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--allow-untyped-calls", "--config-file=")
    found = ("--python-executable", python, "--cache-dir", ROOT / ".mypy_cache" / "package")
    run(*mypy, *found, CONSUMER, place=python.parent)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        check_sdist(sdist)
        card = check_wheel(wheel)
        print(f"package: {sdist.name} and {wheel.name} hold what they should", flush=True)
        core = environment(folder / "core", wheel, card, "")
        check_core(core)
        missing = {}
        told = json.loads(run(core, *QUIETLY, "-c", PROBE, place=folder).stdout)
        for module, said in told.items():
            if said and not module.endswith(VERB):
                found = SENTENCE.fullmatch(said)
                must(found is not None, f"{module} must name the extra to install, got {said!r}")
                missing[module] = found[1]
        print("package: with torch alone it trains, and names its extras", flush=True)
        extras = set(card.get_all("Provides-Extra")) - TOOLS
        must(set(missing.values()) == extras, f"extras {extras} must each be asked for, {missing}")
        for extra in sorted(extras):
            python = environment(folder / extra, wheel, card, extra)
            asking = [module for module, its in missing.items() if its == extra]
            run(python, "-I", "-c", f"import {', '.join(asking)}", place=folder)
            if extra == "lab":
                check_lab(python)
        print(f"package: each extra works alone, types and all: {', '.join(sorted(extras))}")


if __name__ == "__main__":
    main()
