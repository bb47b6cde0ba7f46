"""The house: three rooms that do not lean on each other, and a koch.py that is read from top to bottom."""

import ast
import re
import subprocess
import sys

import koch_mutants
import pytest
from conftest import ROOT

SOURCE = (ROOT / "koch.py").read_text(encoding="utf-8")
LINES = SOURCE.splitlines()
ROOMS = {
    "koch": [ROOT / "koch.py"],
    "reference_numpy": sorted((ROOT / "reference_numpy").rglob("*.py")),
    "tutorials": sorted((ROOT / "tutorials").rglob("*.py")),
    "tests": sorted((ROOT / "tests").glob("*.py")),
}
OURS = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for room in ROOMS.values() for path in room}


def imports(path):
    """Return the modules that a file imports, those inside functions too, as whole names from the root."""
    package, found = path.relative_to(ROOT).parent.parts, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            below = {f"{module}.{alias.name}".strip(".") for alias in node.names}
            found |= {name for name in below if name in OURS} or {module}
    beside = ".".join(package)  # a script imports what lies beside it by its bare name
    return {f"{beside}.{name}" if f"{beside}.{name}" in OURS else name for name in found}


def packages(room):
    return {name.partition(".")[0] for path in ROOMS[room] for name in imports(path)}


def test_koch_and_reference_numpy_each_stand_alone():
    standard = set(sys.stdlib_module_names)
    assert packages("koch") - standard == {"numpy", "torch", "PIL"}
    assert packages("reference_numpy") - standard <= {"reference_numpy", "numpy", "numba", "torch", "matplotlib"}
    for path in ROOMS["reference_numpy"]:
        assert path.name == "compare.py" or not any(name.startswith("torch") for name in imports(path)), path


def test_nothing_but_tests_imports_tests():
    for room in ("koch", "reference_numpy", "tutorials"):
        assert not packages(room) & {"tests", "conftest", "pytest"}


def test_no_import_runs_in_a_circle_not_even_inside_a_function():
    arrows = {}
    for path in sum(ROOMS.values(), []):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        arrows[name] = {target for target in imports(path) if target in OURS and target != name}
    while leaves := [name for name, targets in arrows.items() if not targets & set(arrows)]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"a circle of imports among {sorted(arrows)}"


def functions():
    return [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.FunctionDef)]


def test_koch_py_has_at_most_1300_lines_of_120_columns():
    assert len(LINES) <= 1300 and max(map(len, LINES)) <= 120


def test_no_function_is_longer_than_40_lines_and_the_training_loop_has_at_most_25():
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions()}
    assert max(lengths.values()) <= 40, [name for name, n in lengths.items() if n > 40]
    loop = next(node for node in functions() if node.name == "training_loop")
    assert loop.end_lineno - loop.body[1].lineno + 1 <= 25  # below its docstring
    body = ast.unparse(loop)
    assert not any(word in body for word in ("print", "save", "signal", "time.", "resume"))


def test_the_paper_comes_first_section_by_section():
    banners = {line.split()[2]: i + 1 for i, line in enumerate(LINES) if line.startswith("# § ") and "---" in line}
    assert list(banners) == ["3.1", "3.2", "4.1", "4.2", "4.3"]  # § 4.4 is tutorials/mnist.py
    assert next(iter(banners.values())) <= 60
    after = next(i + 1 for i, line in enumerate(LINES) if line.startswith("# ") and "---" in line and "§" not in line)
    assert list(banners.values())[-1] < after < 700


def test_every_function_says_what_it_does():
    silent = {node.name for node in functions() if not ast.get_docstring(node)}
    assert silent <= {"__init__", "step", "read", "random", "error"}


# Planted mistakes -----------------------------------------------------------------------------------------------------


def test_each_mistake_planted_in_koch_py_is_one_piece_of_text_and_has_a_sentence_of_its_own():
    assert len({mutant.mistake for mutant in koch_mutants.MUTANTS}) == len(koch_mutants.MUTANTS) >= 85
    assert all(koch_mutants.patched(mutant) != SOURCE for mutant in koch_mutants.MUTANTS)


@pytest.mark.thorough
def test_the_quick_tests_reject_nine_of_ten_mistakes_planted_in_koch_py_and_nothing_without_one():
    done = subprocess.run([sys.executable, koch_mutants.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rejected, n = map(int, re.search(r"(\d+) of (\d+) planted mistakes were rejected", done.stdout).groups())
    assert rejected >= 0.9 * n and n == len(koch_mutants.MUTANTS), done.stdout
