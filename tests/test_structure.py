"""The house: koch.py stands alone and stays readable, reference_numpy stands alone beside it (no circle of imports)."""

import ast

from conftest import ROOT

ROOMS = {"koch", "reference_numpy", "tutorials", "tests"}
TEXT = (ROOT / "koch.py").read_text(encoding="utf-8")
FUNCTIONS = [node for node in ast.walk(ast.parse(TEXT)) if isinstance(node, ast.FunctionDef)]


def imported(path):
    """Return the first names of what a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_koch_imports_nothing_of_this_project():
    assert not imported(ROOT / "koch.py") & ROOMS
    assert imported(ROOT / "koch.py") - set(__import__("sys").stdlib_module_names) == {"numpy", "torch", "PIL", "matplotlib"}


def test_reference_numpy_imports_nothing_of_this_project_and_torch_in_compare_alone():
    for path in sorted((ROOT / "reference_numpy").glob("*.py")):
        names = imported(path) - set(__import__("sys").stdlib_module_names)
        allowed = {"numpy", "numba", "reference_numpy", "matplotlib"} | ({"torch"} if path.name == "compare.py" else set())
        assert names <= allowed, path.name


def test_koch_is_short_enough_to_be_read():
    lines = TEXT.splitlines()
    banners = {line.split("-")[0].strip("# ").strip(): number for number, line in enumerate(lines) if line.startswith("# ")}
    assert len(lines) <= 1300 and max(map(len, lines)) <= 120
    assert banners["§ 3.1 Model"] < 60 and banners["Statistics"] < 700
    order = [name for name in banners if name.startswith("§")]
    assert [name.split()[1] for name in order] == ["3.1", "3.2", "4.1", "4.2", "4.3", "4.4"]


def test_the_training_loop_is_bare_and_no_function_is_long():
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in FUNCTIONS}
    assert lengths["training_loop"] <= 25 and max(lengths.values()) <= 40, max(lengths, key=lengths.get)


def test_every_function_says_what_it_does():
    silent = {f.name for f in FUNCTIONS if not ast.get_docstring(f)}
    assert silent <= {"__init__", "step", "read", "random", "error"}
