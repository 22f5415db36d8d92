"""How the package is built: imports run downwards only and cost little, and it stays small enough to read."""

import ast
import io
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

import tinygrad_rnn

PACKAGE = Path(tinygrad_rnn.__file__).parent
# Each may import those before it.
ROOMS = ["kernels", "autograd", "fusion", "nn", "optim", "study", "interop", "adversarial", "testing"]
FILES = sorted(PACKAGE.rglob("*.py"))


def parts(path):
    """The dotted name of a module below the package, as a tuple."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    return inside[:-1] if inside[-1] == "__init__" else inside


MODULES = {parts(path): path for path in FILES}


def imports(path):
    """The modules of the package that a file imports when it runs: not those for the type checker alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    ignored = {id(inner) for node in for_types for inner in ast.walk(node)}
    package = parts(path) if path.name == "__init__.py" else parts(path)[:-1]
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
            found = [name[1:] for name in names if name[0] == "tinygrad_rnn"]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("tinygrad_rnn")):
            module = tuple(node.module.split(".")) if node.module else ()
            base = package[: len(package) - node.level + 1] + module if node.level else module[1:]
            # `from .autograd import table` means the module, `from .tape import Value` a name in one
            found = [(*base, alias.name) if (*base, alias.name) in MODULES else base for alias in node.names]
        else:
            continue
        yield from found


def test_imports_are_read_right():
    """The reader of imports sees relative ones, absolute ones and modules taken from a folder."""
    found = set(imports(PACKAGE / "autograd" / "table.py"))
    assert {("autograd", "arrays"), ("autograd", "primitive"), ("autograd", "tape")} <= found
    assert ("kernels", "elementwise") in set(imports(PACKAGE / "autograd" / "primitive.py"))
    assert ("autograd", "tensor") not in set(imports(PACKAGE / "autograd" / "pointwise.py")), "for the type checker"
    assert all(name in MODULES for path in FILES for name in imports(path)), "an import of something that is not there"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    room = parts(path)[0] if len(parts(path)) and parts(path)[0] in ROOMS else None
    if room is None:
        return  # the front door and the rooms above may import everything
    for name in imports(path):
        assert name and name[0] in ROOMS, f"{room} imports {'.'.join(('tinygrad_rnn', *name))}, which lies above it"
        assert ROOMS.index(name[0]) <= ROOMS.index(room), f"{room} imports {'.'.join(name)}, which lies above it"
        assert (room, name[0]) != ("nn", "kernels"), "nn knows no kernels: what it needs of them goes through autograd"


def reading_order(room):
    """The modules that the docstring of a room names in backticks, in its order."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = [name for name in re.findall(r"`(\w+)`", text) if (*room.split("/"), name) in MODULES]
    return list(dict.fromkeys(named))


def test_autograd_says_in_which_order_to_read_it():
    files = {name[1] for name in MODULES if len(name) == 2 and name[0] == "autograd"}
    assert set(reading_order("autograd")) == files, "the docstring of autograd/__init__.py lists its modules in order"


@pytest.mark.parametrize("room", [*ROOMS, "nn/cells"])
def test_files_are_read_in_order(room):
    """Whoever reads the files of a room in the order that it names meets no name that was not explained before."""
    order, inside = reading_order(room), tuple(room.split("/"))
    depth = len(inside)
    assert order, f"the docstring of {room}/__init__.py names no module"
    for position, name in enumerate(order):
        for imported in imports(MODULES[(*inside, name)]):
            if imported[:depth] == inside and imported[depth:] and imported[depth] in order and imported[depth] != name:
                before = order[:position]
                assert imported[depth] in before, f"{room}/{name}.py imports {imported[depth]}, which comes later"


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_itself_by_a_detour(room):
    ahead = {name: {n for n in imports(path) if n[0] == room} for name, path in MODULES.items() if name[:1] == (room,)}
    while free := [name for name, needed in ahead.items() if not needed & ahead.keys() - {(room,)}]:
        for name in free:
            del ahead[name]
    assert not ahead, f"these import each other in a circle: {['.'.join(name) for name in ahead]}"


def lines_of_code(text):
    """How many lines hold code: not blank, not comments, not docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_lines_of_code_are_counted_right():
    text = '"""About.\n\nMore."""\n\nimport re  # used\n\n# A comment.\n'
    text += 'def f(x):\n    """What."""\n    return (x +\n\n        """a\nb""")\n'
    assert lines_of_code(text) == 5  # import, def, return, and the two lines of the string that is no docstring


ENGINE = [path for path in FILES if parts(path)[:1] in (("kernels",), ("autograd",), ("fusion",))]
# The rooms of the engine, in lines of code besides docstrings and comments.
BUDGETS = {"kernels": 2980, "autograd": 2700, "fusion": 5571}
# What somebody reads in an evening, who wants to know how gradients are found and how a step becomes a program.
EVENING = {
    "autograd": ("operands", "primitive", "table", "tape", "tensor"),
    "fusion": ("hoist", "program", "simplify", "trace", "transpose"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    """A file is read in one go, and a function fits on a screen."""
    text = path.read_text(encoding="utf-8")
    assert lines_of_code(text) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = lines_of_code(textwrap.dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])))
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("room", BUDGETS)
def test_rooms_are_small(room):
    count = sum(lines_of_code(path.read_text(encoding="utf-8")) for path in ENGINE if parts(path)[0] == room)
    assert count <= BUDGETS[room]


def test_the_heart_is_one_evening_s_reading():
    files = [MODULES[room, name] for room, names in EVENING.items() for name in names]
    assert sum(lines_of_code(path.read_text(encoding="utf-8")) for path in files) <= 2000


IMPORT = """
import sys
from numba.core import event
numba_has = set(sys.modules)  # SciPy, where it is installed
with event.install_recorder("numba:run_pass") as recorder:
    import tinygrad_rnn
print(*({"matplotlib", "torch", "tqdm", "scipy", "pandas", "IPython", "ipywidgets"} & set(sys.modules) - numba_has))
print(*[name for name in sys.modules if name.startswith("tinygrad_rnn.generated")])
print(*recorder.buffer)
print(*[name for name in sys.modules if name.startswith(("tinygrad_rnn.study", "tinygrad_rnn.testing"))])
x = tinygrad_rnn.ones(3, requires_grad=True)
assert {"study", "testing", "ops"} <= set(dir(tinygrad_rnn))
assert x._repr_html_() and str((x * x).graph()).endswith("x  value [1, 1, 1]  no gradient yet\\n    x  (above)")
assert tinygrad_rnn.study.heatmap and tinygrad_rnn.testing.check_cell and "tanh" in tinygrad_rnn.ops
"""


def test_importing_is_light():
    """Nothing is compiled or loaded from the cache, and nothing is imported that only some users need; the rooms that
    are loaded later are there all the same."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("\n\n\n\n", 0), done.stdout + done.stderr


def test_the_long_tests_are_there():
    """Those that are told by name to be long."""
    root = Path(__file__).parent
    for line in (root / "long_tests.txt").read_text(encoding="utf-8").splitlines():
        file, _, name = line.partition("::")
        assert f"def {name.partition('[')[0]}(" in (root / file).read_text(encoding="utf-8"), line
