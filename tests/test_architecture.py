"""Rooms import only downwards, only hold.py writes weights, and nothing imports torch too early."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg

SOURCE = Path(thalweg.__file__).parent
LIMIT = 300

#: What each room imports when it is itself imported, and no more. A new room must be added here.
LAW = {
    "errors": "",
    "layout": "",
    "parameters": "layout",
    "theory": "errors",
    "results": "errors",
    "cut": "layout parameters",
    "ascent": "errors parameters cut",
    "modules": "layout",
    "sharded": "errors layout modules",
    "hold": "layout cut sharded",
    "replay": "layout modules",
    "gradients": "cut",
    "telemetry": "errors layout parameters ascent hold gradients",
    "watch": "errors layout parameters hold gradients telemetry",
    "loop": "errors sharded",
    "scaling": "errors layout loop",
    "memory": "errors layout ascent gradients",
    "base": "errors layout parameters cut ascent modules sharded hold gradients telemetry",
    "beside": "errors parameters ascent hold telemetry scaling memory",
    "checks": "errors layout ascent modules base",
    "presets": "errors theory ascent",
    "methods_verb": "presets",
    "gear": "layout parameters cut ascent modules hold watch scaling memory checks",
    "walk": "parameters ascent sharded hold replay gradients telemetry watch memory base beside "
    "gear",
    "sam": "ascent gradients telemetry loop base beside checks gear walk",
    "curvature": "errors layout parameters theory ascent modules hold replay watch",
    "checkpoints": "errors",
    "compat": "errors presets sam checkpoints",
    "testing": "errors ascent sam",
    "lab": "errors parameters theory results ascent",
    "report": "errors results curvature",
    "integrations": "errors ascent modules telemetry sam",
    "diagnose": "errors layout parameters theory results ascent modules hold replay sam curvature "
    "report",
    "diagnose_verb": "errors results modules diagnose",
    "edge_verb": "errors theory",
    "study_verb": "results lab",
    "cli": "errors",  # every verb imports its room when called
    "__main__": "cli",
    "": "",  # thalweg/__init__.py resolves its names lazily
}
MAY_IMPORT = {here: set(names.split()) for here, names in LAW.items()}
#: Rooms that may import any further one inside a function.
LAZY = {"cli"}

#: Every in-place write outside hold.py, by file: to .grad, or to a tensor that is not a weight.
WRITES = {
    "cut.py": {"_foreach_copy_"},
    "gradients.py": {"add_", "copy_", "_foreach_copy_"},
    "replay.py": {"copy_"},  # to buffers
    "scaling.py": {"add_"},
    "lab/problems.py": {"clamp_"},
    "theory/drift.py": {"out="},  # numpy's
    "lab/claims/clock_runs.py": {"out="},  # numpy's
}


def room(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py").replace("__init__", "")


def imports(code, here=""):
    """Return (room, lazy) for every import of thalweg; annotations alone do not count."""
    found = set()

    def visit(node, lazy):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module
            known = module == "thalweg"
            names = [f"{module}.{a.name}" for a in node.names] if known else [module]
        for name in names:
            if name == "thalweg" or name.startswith("thalweg."):
                target = name.partition(".")[2].partition(".")[0]
                found.add((thalweg._HOMES.get(target, target).removeprefix("thalweg."), lazy))
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy)

    visit(ast.parse(code), False)
    return {(name, lazy) for name, lazy in found if name not in (here, "__version__")}


def bad_arrows(here, code):
    """Return every room that ``here`` imports and must not."""
    return sorted(
        name
        for name, lazy in imports(code, here)
        if name not in MAY_IMPORT[here] and not (lazy and here in LAZY)
    )


def writes(code):
    """Return the in-place operations in a file: method names that end in _, .data and out=."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", "")
            if name.endswith("_") and not name.startswith("__") and name != "requires_grad_":
                found.add(name)
            found |= {"out=" for keyword in node.keywords if keyword.arg == "out"}
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in targets if isinstance(node, ast.Assign | ast.AugAssign) else []:
            if isinstance(target, ast.Attribute) and target.attr == "data":
                found.add("data")
            if isinstance(target, ast.Attribute) and isinstance(node, ast.AugAssign):
                holder = ast.unparse(target.value)
                found |= {"augmented"} if holder != "self" else set()
    return found


FILES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(path.relative_to(SOURCE)) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_import_is_on_the_list(path):
    assert room(path) in MAY_IMPORT, "a new room must be placed in the house"
    assert bad_arrows(room(path), path.read_text()) == []


def test_the_list_itself_has_no_cycles():
    done, left = set(), dict(MAY_IMPORT)
    while left:
        free = {name for name, needs in left.items() if needs <= done}
        assert free, f"a cycle among {sorted(left)}"
        done |= free
        left = {name: needs for name, needs in left.items() if name not in free}


def test_the_list_of_imports_is_not_longer_than_needed():
    unused = {here: set(rooms) for here, rooms in MAY_IMPORT.items()}
    for path in FILES:
        here = room(path)
        for name, lazy in imports(path.read_text(), here):
            if not (lazy and here in LAZY):
                unused[here].discard(name)
    assert {here: rooms for here, rooms in unused.items() if rooms} == {}


@pytest.mark.parametrize(
    ("here", "code", "bad"),
    [
        ("lab", "from thalweg.sam import SAM", ["sam"]),
        ("lab", "from thalweg import SAM", ["sam"]),
        ("lab", "def f():\n    import thalweg.sam", ["sam"]),
        ("report", "from thalweg.lab.simulate import simulate", ["lab"]),
        ("errors", "import thalweg.theory", ["theory"]),
        ("ascent", "from thalweg import hold, parameters", ["hold"]),
        ("cli", "from thalweg import lab", ["lab"]),
        ("cli", "def main():\n    from thalweg import lab", []),
        ("sam", "if TYPE_CHECKING:\n    from thalweg import lab", []),
        ("sam", "from thalweg.ascent import Method\nimport torch", []),
        ("theory", "from thalweg.theory import edges", []),
    ],
)
def test_the_detector_of_imports_works(here, code, bad):
    assert bad_arrows(here, code) == bad


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_only_hold_writes_weights(path):
    name = path.relative_to(SOURCE).as_posix()
    found = writes(path.read_text())
    if name == "hold.py":
        assert {"_foreach_copy_", "_foreach_add_", "data"} <= found
    else:
        assert found <= WRITES.get(name, set())


def test_the_list_of_writes_is_not_longer_than_needed():
    assert {n: writes((SOURCE / n).read_text()) for n in WRITES} == WRITES


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("p.data = x", {"data"}),
        ("p.data += x", {"data", "augmented"}),
        ("p.weight += x", {"augmented"}),
        ("with torch.no_grad():\n    p.add_(x)", {"add_"}),
        ("torch._foreach_add_(a, b)", {"_foreach_add_"}),
        ("p.detach().copy_(x)", {"copy_"}),
        ("torch.add(p, x, out=p)", {"out="}),
        ("self._step += 1\ny = p.data\nz = w.requires_grad_()\nq = p + x", set()),
    ],
)
def test_the_detector_of_writes_works(code, found):
    assert writes(code) == found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_asks_for_a_wall(path):
    assert len(path.read_text().splitlines()) <= LIMIT


@pytest.mark.parametrize(
    "module", ["", ".ascent", ".theory", ".results", ".lab", ".report", ".testing", ".compat"]
)
def test_public_names_resolve(module):
    held = importlib.import_module("thalweg" + module)
    assert held.__all__
    assert all(getattr(held, name) is not None for name in held.__all__)
    assert set(held.__all__) <= set(dir(held))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'SMA'"):
        thalweg.SMA  # noqa: B018


def test_theory_and_results_never_import_torch():
    code = """
import sys
for name in ("thalweg", "thalweg.errors", "thalweg.theory", "thalweg.results"):
    __import__(name)
    print(name, "torch" in sys.modules)
import thalweg
thalweg.SAM
print("SAM", "torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line.split()[-1] for line in run.stdout.splitlines()]
    assert told == ["False", "False", "False", "False", "True"]
