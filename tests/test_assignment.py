"""The course's assignment: starters that keep to the reference, marks that find mistakes, hostile submissions."""

import ast
import contextlib
import csv
import functools
import hashlib
import importlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from honest import HONEST
from hostile import HOSTILE
from submissions import COMMON, MISTAKES, MODULES, ROOT, STARTER, solution, thirty, write

import reference_numpy.convolution
from reference_numpy.data import Trials
from tutorials.assignment import cases, inside, mark, report, sandbox, score, tasks
from tutorials.assignment.report import Failed, Mark
from tutorials.assignment.starter import given
from tutorials.assignment.tasks import COMPULSORY, TASKS

drawn = functools.cache(cases.make_cases)
posix = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


@pytest.fixture(scope="module")
def prepared():
    return mark.prepare(0, [task.number for task in COMPULSORY])


class Inside:
    """Find the functions of a submission in this process, its compiled loops as plain Python."""

    def __init__(self, **texts):
        self.texts, self.modules = texts, {}

    def __call__(self, name):
        import numba

        module, function = name.split(".")
        if module not in self.texts:
            return tasks.reference(name)
        sys.modules |= {"given": given, "convolution": reference_numpy.convolution}
        if module not in self.modules:
            self.modules[module] = types.ModuleType(module)
            before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 1
            try:
                exec(compile(self.texts[module], module, "exec"), self.modules[module].__dict__)
            finally:
                numba.config.DISABLE_JIT = before
        return getattr(self.modules[module], function)


def wrong_cases(find, asked):
    """Return the sentences of the cases that a submission fails, those that time it and those of threads left out."""
    failed = []
    for case, wanted, _ in asked:
        if case.timed and not case.judge or case.question == "threads":
            continue
        try:
            answer = inside.unpack(inside.pack(inside.ask(find, case.question, case.arguments)))
            said = tasks.verdict(case, answer, wanted)
        except Exception as error:
            said = inside.problem(error)[1]
        failed += [f"{case.sentence}: {said}"] if said else []
    return failed


# The starter ----------------------------------------------------------------------------------------------------------


def functions(path):
    """Return {name: (its arguments, its docstring)} of a file's functions."""
    found = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return {node.name: (ast.unparse(node.args), ast.get_docstring(node)) for node in found}


@pytest.mark.parametrize("module", MODULES)
def test_the_starter_has_the_signatures_and_docstrings_of_the_reference(module):
    reference, starter = functions(ROOT / "reference_numpy" / f"{module}.py"), functions(STARTER / f"{module}.py")
    assert starter and {name: reference[name] for name in starter} == starter


def test_the_starter_has_each_tasks_functions_and_each_raises_an_error_that_names_its_task():
    for task in TASKS:
        path = STARTER / f"{task.module}.py"
        bodies = {n.name: ast.unparse(n.body[-1]) for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
        for name in task.functions:
            word = "Variant" if task.number.isalpha() else "Task"
            assert re.fullmatch(rf"raise NotImplementedError\(['\"]{word} {task.number}: .+['\"]\)", bodies[name])


def test_every_function_of_the_starter_belongs_to_one_task():
    asked = [(task.module, name) for task in TASKS for name in task.functions]
    there = [(path.stem, name) for path in STARTER.glob("*.py") for name in functions(path)]
    assert sorted(asked) == sorted(there)


def test_the_starters_modules_can_be_imported_beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(STARTER)
    for path in STARTER.glob("*.py"):
        spec = importlib.util.spec_from_file_location(f"starter_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert all(callable(getattr(module, name)) for name in functions(path))


def test_the_points_of_the_tasks_are_100():
    assert tasks.TOTAL == 100 and len(COMPULSORY) == 12


# Cases ----------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("task", COMPULSORY, ids=lambda task: task.number)
def test_the_reference_answers_every_case_rightly_whatever_the_seed(task):
    for seed in (1, 2):
        for case in drawn(seed)[task.number]:
            answer = inside.ask(tasks.reference, case.question, case.arguments)
            assert tasks.verdict(case, answer, answer) == "", case.sentence


@pytest.mark.thorough
def test_the_same_seed_draws_the_same_cases_and_another_others():
    first, again, other = (inside.pack([c.arguments for c in cases.make_cases(seed)["4"]]) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.thorough
@pytest.mark.parametrize("module", MODULES)
def test_a_copy_of_the_reference_is_right_everywhere(prepared, module):
    find = Inside(**{module: solution(module)})
    for task in (task for task in COMPULSORY if task.module == module):
        assert wrong_cases(find, prepared[task.number]) == []


@pytest.mark.thorough
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.task}-{m.name}".replace(" ", "_"))
def test_a_mistake_loses_points_in_its_task_and_in_no_earlier_one(prepared, mistake):
    text = solution(mistake.module)
    assert text.count(mistake.old) == 1
    find = Inside(**{mistake.module: text.replace(mistake.old, mistake.new)})
    for task in COMPULSORY:
        if task.number == mistake.task:
            break
        if task.module == mistake.module:
            assert wrong_cases(find, prepared[task.number]) == []
    said = wrong_cases(find, prepared[mistake.task])
    assert said and not any("NameError" in line or "SyntaxError" in line for line in said), said


def test_there_are_mistakes_in_every_task():
    assert len(MISTAKES) >= 40
    assert {mistake.task for mistake in MISTAKES} == {task.number for task in COMPULSORY}


@pytest.mark.parametrize(
    "answer, said",
    [
        (np.array([1.0, 2.0, 3.5]), r"it is 3.5 at \(2,\) where it should be 3"),
        (np.array([1.0, 2.0]), r"it has shape \(2,\), not \(3,\)"),
        (np.array([1, 2, 3], np.float32), "it is float32, not float64"),
        (np.array([1.0, np.nan, 3.0]), "it has 1 of 3 entries that are not numbers"),
        (None, "it is None, not numbers"),
        ((1.0, 2.0, 3.0), "it is .*, not numbers"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(answer, said):
    assert re.fullmatch(said, tasks.wrong(answer, np.array([1.0, 2.0, 3.0]), "it"))


@pytest.mark.parametrize("answer", [None, 1, "x", (), {}, np.ones((2, 2)), (1, 2, 3, 4), {"w": (None,)}, True])
def test_no_answer_stops_the_marking(answer):
    for some in drawn(0).values():
        for case in some:
            wanted = None if case.judge else (np.ones(3), None, {"w": np.ones(2)}, True, "x", (1.0,))
            assert tasks.verdict(case, answer, wanted) and tasks.verdict(case, (answer,) * 6, wanted)


def test_a_dict_is_compared_name_by_name():
    wanted = {"w": np.ones(2), "b": np.zeros(1)}
    assert tasks.wrong({"w": np.ones(2), "b": np.zeros(1)}, wanted) == ""
    assert tasks.wrong({"w": np.ones(2)}, wanted) == "the result has no b"
    assert "w is 0" in tasks.wrong({"w": np.zeros(2), "b": np.zeros(1)}, wanted)


@pytest.mark.thorough
def test_the_open_variants_cases_know_right_from_wrong():
    for task in tasks.VARIANTS:
        some = drawn(3)[task.number]
        assert len(some) >= 3
        for case in some[:-1]:
            answer = out, *gradients = case.answer
            assert tasks.verdict(case, answer, answer) == ""
            assert "is" in tasks.verdict(case, (out, *(2 * g + 1 for g in gradients)), answer)
            assert tasks.verdict(case, (out,), answer)
            if task.number == "A":
                np.testing.assert_allclose(stride2_forward(*case.arguments[2:]), out)


def stride2_forward(x, w, b):
    """A slow answer, by the formula: enough for a test, and no solution of the backward pass."""
    n, f = len(x), len(w)
    out = np.zeros((n, f, (x.shape[2] - w.shape[2]) // 2 + 1, (x.shape[3] - w.shape[3]) // 2 + 1))
    for i, j, y, z in np.ndindex(out.shape):
        out[i, j, y, z] = (x[i, :, 2 * y : 2 * y + w.shape[2], 2 * z : 2 * z + w.shape[3]] * w[j]).sum() + b[j]
    return out


# Messages -------------------------------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were():
    thing = {"a": [1, 2.5, None, True, "x", np.arange(6.0).reshape(2, 3)], "b": (), "c": np.float32(2)}
    back = inside.unpack(inside.pack(thing))
    assert back["a"][:5] == thing["a"][:5] and back["b"] == [] and back["c"].dtype == np.float32
    np.testing.assert_array_equal(back["a"][5], thing["a"][5])
    assert inside.unpack(inside.pack_question("call", ("name", inside.Seed(3)))) == ["call", ["name", inside.Seed(3)]]


@pytest.mark.parametrize("thing", [np.array([None]), np.array(["x"]), object(), {1, 2}, b"x"])
def test_nothing_else_can_be_sent(thing):
    with pytest.raises(TypeError):
        inside.pack(thing)


@pytest.mark.parametrize(
    "message",
    [
        b'{"dtype": "O", "shape": [1], "bytes": "AAAAAAAAAAA="}',
        b'{"dtype": "V8", "shape": [1], "bytes": "AAAAAAAAAAA="}',
        b'{"dtype": "<f8", "shape": [1000000], "bytes": "AAAAAAAAAAA="}',
        b'{"dtype": "<f8", "shape": [1]}',
        b'{"record": "Popen", "parts": ["id"]}',
        b"nope",
        pickle.dumps(print),
    ],
)
def test_what_is_no_message_of_numbers_is_not_unpacked(message):
    with pytest.raises((ValueError, KeyError)):
        inside.unpack(message)


# What may be imported, and what is given ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, said",
    [
        ("import os\n", "line 1, imports os, which is not on the list"),
        ("def f():\n    from reference_numpy.layers import relu_forward\n", "line 2, imports reference_numpy"),
        ("import numpy as np, torch\n", "imports torch"),
        ("def f(:\n", "line 1: invalid syntax"),
        ("x = 1\n\nif x\n    pass\n", "line 3: expected ':'"),
        ("x = '\x00'", "source code string cannot contain null bytes"),
        ("(" * 9000, "too many nested parentheses"),
    ],
)
def test_a_file_with_a_forbidden_import_or_a_syntax_error_is_replaced_by_one_that_says_so(tmp_path, text, said):
    (tmp_path / "layers.py").write_text(text)
    sandbox.refuse(tmp_path)
    with pytest.raises(ImportError, match=re.escape(said)):
        exec((tmp_path / "layers.py").read_text())


def test_a_folder_with_the_name_of_a_file_stops_nothing(tmp_path):
    (tmp_path / "layers.py").mkdir()
    sandbox.refuse(tmp_path)
    assert report.runs_of(tmp_path) == {}


def test_permitted_imports_and_those_of_a_self_test_are_left(tmp_path):
    text = "import math, numpy as np\nfrom numba import njit\nfrom helper import f\nfrom given import check\n"
    text += 'if __name__ == "__main__":\n    import torch\n'
    text += "def f():\n    from .helper import g\n"
    write(tmp_path / "one", layers=text, helper="import itertools\n")
    sandbox.refuse(tmp_path / "one")
    assert (tmp_path / "one" / "layers.py").read_text() == text


def test_what_is_given_has_the_answers_of_the_modules_that_may_be_used_and_no_others(tmp_path):
    sandbox.hand_out(tmp_path)
    assert sorted(m for modules, _ in sandbox.STAGES.values() for m in modules) == sorted({t.module for t in TASKS})
    for stage, (modules, answered) in sandbox.STAGES.items():
        assert not set(modules) & set(answered)
        for path in (tmp_path / stage / "reference_numpy").glob("*.py"):
            found = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            working = {node.name for node in found if "is the answer to a task" not in ast.unparse(node)}
            if path.stem in answered:
                assert len(working) == len(found) and path.read_bytes() == (sandbox.REFERENCE / path.name).read_bytes()
            else:
                assert working <= sandbox.GIVEN and not working & sandbox.ANSWERS
                assert all(len(node.body) == 1 for node in found if node.name not in working)


def test_what_is_given_and_is_no_answer_can_be_called_and_an_answer_says_so(tmp_path):
    sandbox.hand_out(tmp_path)
    text = """
import numpy as np, given
x = np.ones((2, 1, 2, 2))
given.batchnorm_backward(x, given.batchnorm_forward(x, *np.ones((4, 1)))[1])
parameters = given.initial_parameters(15, np.random.default_rng(0))
print(given.size_of(parameters), given.pad_forward(x)[0].shape, given.of_layer(0.1, 'join.bias'))
given.linear_forward(1, 2, 3)
"""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path / "layers", capture_output=True, text=True, env=environment
    )
    assert done.stdout == "15 (2, 1, 4, 4) 0.1\n"
    assert "NotImplementedError: linear_forward of given.py is the answer to a task" in done.stderr


# Copies ---------------------------------------------------------------------------------------------------------------


def renamed(text):
    """Return a module's text with other names for its functions, arguments and variables, and other imports."""
    tree = ast.parse(text)
    keep = {name for task in TASKS for name in task.functions} | {"np", "given", "layers", "learning", "network"}
    for node in ast.walk(tree):
        for field in ("id", "arg", "name"):
            word = getattr(node, field, None)
            if isinstance(word, str) and word not in keep and not isinstance(node, ast.alias) and len(word) > 0:
                setattr(node, field, f"my_{word}")
    return "import numpy\n\n" + ast.unparse(tree)


def test_a_renamed_copy_of_the_reference_is_flagged_and_honest_solutions_are_not(tmp_path):
    write(tmp_path / "copy", **{module: renamed(solution(module)) for module in MODULES})
    write(tmp_path / "copy" / "older", **{module: "x = 1\n" for module in MODULES})
    for name, texts in HONEST.items():
        write(tmp_path / name, **texts)
    write(tmp_path / "empty", **{path.stem: path.read_text() for path in STARTER.glob("*.py")})
    found = report.most_alike({path.name: report.runs_of(path) for path in sorted(tmp_path.iterdir())})
    assert found["copy"][0] > 0.9 and found["copy"][1] == "the reference"
    assert all(found[name][0] < report.ALIKE / 2 for name in HONEST), found
    assert found["empty"] == (0, "", "")


def test_two_submissions_that_are_alike_are_flagged_both(tmp_path):
    texts = next(iter(HONEST.values()))
    write(tmp_path / "one", **texts)
    write(tmp_path / "two", **{module: renamed(text) for module, text in texts.items()})
    found = report.most_alike({path.name: report.runs_of(path) for path in tmp_path.iterdir()})
    assert found["one"][:2] == (1.0, "two") and found["two"][:2] == (1.0, "one")


@pytest.mark.thorough
@pytest.mark.parametrize("name", HONEST)
def test_the_honest_solutions_are_right(prepared, name):
    find = Inside(**HONEST[name])
    for task in (task for task in COMPULSORY if f"def {task.functions[-1]}(" in HONEST[name].get(task.module, "")):
        assert wrong_cases(find, prepared[task.number]) == []


# What is said ---------------------------------------------------------------------------------------------------------


def test_a_module_that_cannot_be_imported_is_said_once():
    why = sandbox.Failure("layers.py, line 3: invalid syntax", "cannot be imported")
    marks = {n: mark.unmarked([None] * 4, "layers", why) for n in "123"}
    said = report.feedback("ada", marks)
    assert said.count("line 3: invalid syntax") == 1 and said.count("cannot be imported)") == 3


def test_not_written_not_imported_wrong_and_too_slow_are_four_things():
    kinds = "not written", "cannot be imported", "wrong", "too slow"
    marks = {str(i): Mark(0, 0, 2, (Failed("a case", "x", "said", kind),)) for i, kind in enumerate(kinds)}
    assert [mark.state for mark in marks.values()] == list(kinds)
    assert [report.cell(mark) for mark in marks.values()] == ["-", "!", "0", "0s"]
    assert report.cell(Mark(2.5, 1, 2, (Failed("a case", "x", "said", "not written"),))) == "2.5-"
    assert report.cell(Mark(5, 2, 2, ())) == "5" and report.cell(None) == ""


def test_what_a_submission_says_is_one_printable_line():
    assert sandbox.one_line("a\x1b[2Jb\n\u202ec") == "a?[2Jb ?c"
    assert len(sandbox.one_line("x" * 1000)) == 300


def test_a_case_says_what_was_given():
    first = {task.number: drawn(0)[task.number][1].given for task in COMPULSORY}
    assert first["3"] == "x (1, 1, 4, 4) float64, w (1, 1, 2, 2) float64, b (1,) float64"
    assert first["4"].startswith("dout (3, 4, 4, 4) float64, x (3, 2, 6, 6) float64")
    assert first["8"].startswith("dout (4, 32) float64, parameters of a net of 15x15 pixels, TWINS[15], images (4, 1")
    assert "17 characters in alphabets of 3, 2, 7, 4, 1, each by 5 drawers" in first["10"]
    assert given.TWINS[15] and given.size_of(drawn(0)["8"][0].arguments[2]) == 15  # the starter has this net


# Marking --------------------------------------------------------------------------------------------------------------


def run_mark(*arguments, **environment):
    command = [sys.executable, str(ROOT / "tutorials" / "assignment" / "mark.py"), *map(str, arguments)]
    threads = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "0"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | threads | environment)


def contents(*folders):
    """Return {path: (mode, checksum)} of all that is in folders."""
    there = {p: p.read_bytes() if p.is_file() else b"" for folder in folders for p in sorted(folder.rglob("*"))}
    return {str(path): (path.lstat().st_mode, hashlib.sha256(text).hexdigest()) for path, text in there.items()}


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Mark thirty made-up submissions, one with variants, one that is a package, and one with a syntax error."""
    folder = tmp_path_factory.mktemp("course")
    submissions, right = folder / "submissions", {module: solution(module) for module in MODULES}
    for name, texts in thirty().items():
        write(submissions / name, **texts)
    variants = (STARTER / "variants.py").read_text()
    average = (
        "def avgpool2x2_forward(x):\n    h, w = x.shape[2] // 2, x.shape[3] // 2\n"
        "    return x[:, :, : 2 * h, : 2 * w].reshape(*x.shape[:2], h, 2, w, 2).mean((3, 5)), x.shape\n\n\n"
        "def avgpool2x2_backward(dout, cache):\n    return np.zeros(cache)\n"
    )
    variants = variants.replace("Variant B:", "Variant b:").replace("def avgpool2x2", "def older")
    write(submissions / "half", layers=right["layers"], convolution=right["convolution"], variants=variants + average)
    package = {m: re.sub("from (given|convolution)", r"from .\1", text) for m, text in right.items()}
    package |= {m: text.replace("import given", "from . import given") for m, text in package.items()}
    write(submissions / "package", **package)
    write(submissions / "broken", **right | {"layers": right["layers"].replace("relu_forward(x):", "relu_forward(x:")})
    (submissions / "readme.txt").write_text("no submission")
    before = contents(folder)
    done = run_mark(submissions, "--seconds", 20, "--out", folder.parent / "marks")
    with open(folder.parent / "marks" / "marks.csv", encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return done, rows, before == contents(folder), folder.parent / "marks"


def students(kind):
    """Return the names of those of the thirty whose layers.py is a hostile one."""
    return [name for name, texts in thirty().items() if texts["layers"] == HOSTILE[kind]]


@pytest.mark.thorough
@posix
def test_right_submissions_have_all_points_whether_or_not_they_are_packages_and_the_empty_one_has_none(marked):
    done, rows, unchanged, _ = marked
    assert done.returncode == 0 and unchanged, done.stderr
    right = [name for name, row in rows.items() if float(row["points"]) == 100]
    assert len(right) == 3 and "package" in right
    assert all(float(rows["package"][f"task {task.number} speed"]) > 0 for task in COMPULSORY)
    states = {name: {row[f"task {task.number} state"] for task in COMPULSORY} for name, row in rows.items()}
    (empty,) = (name for name in rows if states[name] == {"not written"})
    assert float(rows[empty]["points"]) == 0 and rows[empty]["most alike"] == ""
    text = (marked[-1] / "feedback" / f"{empty}.txt").read_text()
    for task in COMPULSORY:
        assert f"{task.number:>2} {task.name}: 0 of {task.points} points" in text
        assert f"Task {task.number}: " in text or task.number == "4" and text.count("Task 3: ") == 2


@pytest.mark.thorough
@posix
def test_a_submission_without_a_module_loses_its_tasks_and_variants_are_apart(marked):
    half = marked[1]["half"]
    assert float(half["points"]) == sum(t.points for t in COMPULSORY if t.module in ("layers", "convolution"))
    assert half["task 8 first failure"] == "there is no network.py" and half["task 8 state"] == "not written"
    assert half["task B points"] == "0.0" and "dx is 0" in half["task B first failure"]
    assert "task A points" not in half and marked[1]["broken"]["task B state"] == ""


@pytest.mark.thorough
@posix
def test_a_syntax_error_is_said_once_with_its_line(marked):
    _, rows, _, out = marked
    assert {rows["broken"][f"task {n} state"] for n in (1, 2, 3, 4, 6, 7)} == {"cannot be imported"}
    assert rows["broken"]["task 5 state"] == rows["broken"]["task 8 state"] == "right"
    text = (out / "feedback" / "broken.txt").read_text()
    assert len(re.findall(r"layers.py cannot be imported: layers.py, line \d+: ", text)) == 1


@pytest.mark.thorough
@posix
def test_hostile_submissions_among_others_have_a_line_of_their_own(marked):
    said = {
        "hangs": "2 state|too slow", "crashes": "1 first failure|imports os, which is not on the list",
        "asks_torch": "1 first failure|imports sys, which is not on the list",
        "exits": "1 first failure|imports sys, which",
        "wraps_what_is_given": "1 first failure|linear_forward of given.py is the answer to a task",
    }  # fmt: skip
    for kind, expected in said.items():
        (name,) = students(kind)
        column, text = expected.split("|")
        assert text in marked[1][name][f"task {column}"], (kind, marked[1][name])
        assert sum(float(marked[1][name][f"task {n} points"]) for n in (1, 2, 3, 4, 6, 7)) == 0


@pytest.mark.thorough
@posix
def test_the_report_of_thirty_names_the_planted_mistakes_in_its_first_ten_lines(marked):
    first = (marked[-1] / "report.md").read_text().splitlines()[:10]
    says = {
        "the gradient in the upper row": "(task 6)", "no bias": "(task 1)", "one drawer for all": "another's (task 11)",
        "half the penalty": "penalty", "dx without the border": "dx_numba", "the loss is a sum": "the loss of two",
        "the first twin's gradients alone": "gradients of both twins",
    }  # fmt: skip
    assert set(says) == set(COMMON)
    for mistake, text in says.items():
        (line,) = (line for line in first if text in line)
        assert re.match(rf"- {COMMON[mistake]} of 33: ", line) or mistake == "no bias", line
    with Image.open(marked[-1] / "report.png") as image:
        assert image.height > image.width and len(image.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.thorough
@posix
def test_the_table_has_a_row_for_each_and_the_pictures_are_small(marked):
    done, rows, _, out = marked
    assert re.match(r"33 submission\(s\), each (in bubblewrap|a plain process)", done.stdout)
    for name in rows:
        assert re.search(rf"^{name} +[\d.]+ ", done.stdout, re.MULTILINE)
    assert "readme" not in rows
    assert all((out / name).stat().st_size < 120_000 for name in ("marks.png", "report.png"))


# Hostile submissions --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Mark every hostile submission under bubblewrap without a look at its imports; return what there is to see."""
    if sandbox.level() != "bubblewrap":
        pytest.skip("needs bubblewrap, and leave to make a user space")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "outside").mkdir()
    (folder / "outside" / "kept.txt").write_text("precious")
    descriptor, secret = tempfile.mkstemp(dir=Path.home())
    os.write(descriptor, b"the teacher's"), os.close(descriptor)
    server, victim = socket.create_server(("127.0.0.1", 0)), subprocess.Popen(["sleep", "3600"])
    server.setblocking(False)
    known = {"OUTSIDE": str(folder / "outside"), "SECRET": secret, "ROOT": str(ROOT)}
    known |= {"PORT": server.getsockname()[1], "VICTIM": victim.pid}
    for name, text in HOSTILE.items():
        write(folder / "submissions" / name, layers="".join(f"{k} = {v!r}\n" for k, v in known.items()) + text)
    submissions = mark.find_submissions(folder / "submissions", mark.FILES)
    watched = folder / "outside", folder / "submissions", ROOT / "tutorials" / "assignment", ROOT / "reference_numpy"
    before, state = contents(*watched), victim_state(victim.pid)
    prepared, usable = mark.prepare(0, ["1", "2"]), tmp_path_factory.mktemp("given")
    sandbox.hand_out(usable)
    marks = mark.for_all(submissions, lambda name, copy: mark.mark(copy, prepared, usable, 5, check=False), 2)
    with pytest.raises(BlockingIOError):  # nobody has called
        server.accept()
    yield marks, before == contents(*watched), state == victim_state(victim.pid), str(usable)
    victim.kill(), victim.wait(), server.close(), os.remove(secret)


def victim_state(pid):
    """Return what others could change of a process: that it runs, its priority, limits and processors."""
    import resource  # not on Windows

    limits = [resource.prlimit(pid, which) for which in range(16)]
    return Path(f"/proc/{pid}/stat").read_text().split()[2], os.getpriority(0, pid), limits, os.sched_getaffinity(pid)


def all_said(marks):
    return "\n".join(failed.said for mark in marks.values() for failed in mark.failures)


@pytest.mark.thorough
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_gains_no_point_and_does_not_do_what_it_wants(attacked, name):
    marks = attacked[0][name]
    assert all(mark.points == 0 for mark in marks.values()), marks
    said = all_said(marks)
    assert said and "DONE" not in said and "precious" not in said and "teacher" not in said, said
    assert all(line.isprintable() for line in said.splitlines())


@pytest.mark.thorough
def test_hostile_submissions_change_nothing_outside_and_hurt_nobody(attacked):
    _, unchanged, unhurt, _ = attacked
    assert unchanged and unhurt


@pytest.mark.thorough
def test_no_process_of_a_hostile_submission_outlives_its_marking(attacked):
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            text = command.read_text()  # bubblewrap's names the folder of what was given
            assert attacked[-1] not in text and text != "sleep\0987\0"


@pytest.mark.thorough
def test_memory_and_processes_are_held_off_in_words(attacked):
    expected = {
        "memfd": "Too many open files", "fills_memory": "more memory than there is|than 5 s", "fills_a_disk": "",
        "forks_50_times": "BlockingIOError", "threads": "can't start new thread",
        "fills_memory_in_children": "BlockingIOError|4 GB of memory", "fills_memory_together": "4 GB of memory|than 5 s",
    }  # fmt: skip
    for name, text in expected.items():
        assert re.search(text, all_said(attacked[0][name])), all_said(attacked[0][name])


def test_the_memory_of_a_process_and_of_what_it_has_started_is_counted():
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc")
    child = "import sys, time; kept = bytearray(200 << 20); print(1, flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        assert 200 << 20 < sandbox.memory(process.pid) < 400 << 20
        os.killpg(process.pid, signal.SIGKILL)
    assert sandbox.memory(process.pid) == 0


def test_most_hostile_submissions_are_refused_by_their_imports_already(tmp_path):
    for name, text in HOSTILE.items():
        write(tmp_path / name, layers=text)
        sandbox.refuse(tmp_path / name)
    refused = [name for name in HOSTILE if (tmp_path / name / "layers.py").read_text().startswith("raise ImportError")]
    assert len(refused) >= 40 and "wraps_the_reference" in refused and "hangs" not in refused


@pytest.mark.thorough
@posix
def test_as_a_plain_process_a_submission_that_hangs_or_dies_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "level", lambda: "missing")
    for name in ("hangs", "crashes", "segfaults", "exits", "patches", "wraps_what_is_given", "asks_torch"):
        write(tmp_path / "submissions" / name, layers=HOSTILE[name])
    sandbox.hand_out(tmp_path / "given")
    prepared = mark.prepare(0, ["1", "2"])
    for check in (True, False):
        work = lambda name, copy: mark.mark(copy, prepared, tmp_path / "given", 5, check=check)  # noqa: E731, B023
        found = mark.for_all(mark.find_submissions(tmp_path / "submissions", mark.FILES), work, 2)
        for name, marks in found.items():
            assert check is False and name == "asks_torch" or all(mark.points == 0 for mark in marks.values()), name


@posix
def test_where_bubblewrap_is_missing_or_cannot_make_a_user_space_it_is_said(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert "not installed" in sandbox.LEVELS[sandbox.level.__wrapped__()]
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: name)
    monkeypatch.setattr(sandbox, "wrapped", lambda *_: ["false"])
    assert "cannot make a user space" in sandbox.LEVELS[sandbox.level.__wrapped__()]


@posix
def test_links_pipes_huge_files_and_compiled_ones_are_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(mark, "LARGEST", 10)
    submission = tmp_path / "submissions" / "odd"
    write(submission, layers="x = 1\n", large="x = 1234567\n")
    (submission / "link.py").symlink_to(submission / "layers.py")
    (submission / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(submission / "pipe")
    (submission / "fast.so").write_text("1")
    (submission / "data").mkdir()
    (submission / "data" / "w").write_text("1")
    seen = mark.for_all({"odd": submission}, lambda name, copy: sorted(p.name for p in copy.rglob("*")), 1)
    assert seen == {"odd": ["data", "layers.py", "w"]}


PIXELS_NET = """
class Net:
    size = 35

    def features(self, images):
        return images.flatten(1)

    def logit(self, h1, h2):
        return (h1 * h2).sum(1) / (h1.norm(dim=1) * h2.norm(dim=1))
"""
PEEKING_NET = """
import sys

import torch


class Net:
    size = 35

    def features(self, images):
        return images.flatten(1)[:, :1]

    def logit(self, h1, h2):
        frame = sys._getframe()
        while "where" not in frame.f_locals:
            frame = frame.f_back
        trials, i = frame.f_locals["trials"], frame.f_locals["i"]
        return torch.tensor(trials.support[i] == trials.test[i] - 40).float()
"""
DEAD_NET = """
import torch


class Net(torch.nn.Module):
    size = 35

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1225, 1)

    def features(self, images):
        return self.layer(images.flatten(1))

    def logit(self, h1, h2):
        return 0 * h1[:, 0]
"""


@pytest.mark.thorough
@posix
def test_a_score_is_that_of_the_same_trials_for_every_net(tmp_path, capsys):
    nets = tmp_path / "nets"
    write(nets / "pixels", net=PIXELS_NET)
    write(nets / "dead", net=DEAD_NET)
    write(nets / "package", net="from .mine import Net\n", mine=PIXELS_NET)
    write(nets / "peeks", net=PEEKING_NET)
    write(nets / "none", net="class Net: pass\n")
    write(nets / "prints", net="import sys\nsys.exit()\n")
    images = (np.random.default_rng(0).random((60, 105, 105)) < 0.1).astype(np.uint8)
    images[40:] = images[:20]
    trials = {"within": Trials(images, np.arange(40, 60), np.tile(np.arange(20), (20, 1)), np.arange(20))}
    found = {path.name: score.score(path, "net:Net", trials) for path in sorted(nets.iterdir())}
    assert found["pixels"]["within right"] == 20 and found["pixels"]["parameters"] == 0
    assert found["package"]["within right"] == 20
    assert found["peeks"]["within right"] <= 5  # where a drawing stands says nothing of its character
    assert found["dead"]["within right"] == 0 and found["dead"]["parameters"] == 1226
    assert "has no size" in found["none"]["failure"] and "sys.exit" in found["prints"]["failure"]
    (nets / "pixels" / "best.pt").write_bytes(b"x")
    assert "is not a checkpoint" in score.score(nets / "pixels", "best.pt", trials)["failure"]
    assert score.score(nets / "dead", "best.pt", trials) == {"failure": "there is no best.pt"}
    score.print_scores(found, trials)
    assert re.search(r"pixels +100.00 .* 0 +\d+\.\d\nprints +it called sys.exit", capsys.readouterr().out)
    report.write_csv([{"student": name} | row for name, row in found.items()], tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows["pixels"]["within right"] == "20" and float(rows["pixels"]["within low"]) > 0.8
    assert "has no size" in rows["none"]["failure"] and rows["none"]["within right"] == rows["dead"]["failure"] == ""


@pytest.mark.thorough
@posix
def test_one_submission_alone_is_told_everything(tmp_path):
    write(tmp_path / "alone", learning=solution("learning").replace("0.99**epoch", "0.98**epoch"))
    done = run_mark(tmp_path / "alone", "--out", tmp_path / "out", "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert "alone: 4.1 of 100 points" in done.stdout and "10 of 12 cases" in done.stdout
    said = "the learning rate at epoch 1: 1 % less each epoch: the result is 0.196 where it should be 0.198"
    assert said in done.stdout


def test_a_net_may_be_handed_in_alone_and_a_name_may_be_any_bytes(tmp_path):
    write(tmp_path / "alice", net=PIXELS_NET)
    (tmp_path / "alice" / "weights").mkdir()
    assert mark.find_submissions(tmp_path / "alice", ["net.py"]) == {"alice": tmp_path / "alice"}
    os.mkdir(os.fsencode(tmp_path) + b"/M\xfcller")
    assert sorted(mark.find_submissions(tmp_path, mark.FILES)) == ["M\\xfcller", "alice"]


def test_what_a_submission_says_is_no_mathematics_for_the_pictures(tmp_path):
    failed = report.Failed("a case", "", "it raised ValueError: $\\bad$", "wrong")
    marks = {task.number: report.Mark(0, 0, 1, (failed,)) for task in COMPULSORY}
    report.write_marks({"$\\bad$": marks, "other": marks}, dict.fromkeys(("$\\bad$", "other"), (0, "", "")), "", tmp_path)
    assert (tmp_path / "report.png").is_file() and (tmp_path / "marks.png").is_file()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("nowhere",), "there is no folder nowhere"),
        ((".",), "has no folders"),
        ((".", "--seed", "-1"), "--seed is at least 0"),
        ((".", "--at-once", "0"), "--at-once at least 1"),
        ((".", "--mod", "net:Net"), "--mod"),
        ((".", "--model", "net.py:Net"), "--model is MODULE:CLASS"),
        ((), "required: SUBMISSIONS"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    try:
        status = mark.main(list(arguments))
    except SystemExit as end:
        status = end.code
    written = capsys.readouterr()
    assert status == 2 and said in written.err and len(written.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
