"""The course's assignment: starters that keep to the reference, marks that find mistakes, hostile submissions."""

import ast
import contextlib
import csv
import functools
import hashlib
import importlib
import io
import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from submissions import HOSTILE, ISOLATED, MISTAKES, MODULES, ROOT, STARTER, solution, write

from reference_numpy.data import Trials, UserError
from tutorials.assignment import cases, mark, sandbox, score, tasks
from tutorials.assignment.tasks import TASKS

drawn = functools.cache(cases.make_cases)
posix = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


@pytest.fixture(scope="module")
def prepared():
    return mark.prepare(0)


class Inside:
    """Find the functions of a submission in this process, its compiled loops as plain Python."""

    def __init__(self, **texts):
        self.texts, self.modules = texts, {}

    def __call__(self, name):
        import numba

        module, function = name.split(".")
        if module not in self.texts:
            return tasks.reference(name)
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
    for case, wanted in asked:
        if case.timed and case.question != "trained" or case.question == "threads":
            continue
        try:
            said = tasks.verdict(case, sandbox.unpack(sandbox.pack(tasks.ask(find, case))), wanted)
        except Exception as error:
            said = sandbox.in_words(error)
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
    assert mark.TOTAL == 100 and len(mark.COMPULSORY) == 12


# Cases ----------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("task", mark.COMPULSORY, ids=lambda task: task.number)
def test_the_reference_answers_every_case_rightly_whatever_the_seed(task):
    for seed in (1, 2):
        for case in drawn(seed)[task.number]:
            answer = tasks.ask(tasks.reference, case)
            assert tasks.verdict(case, answer, answer) == "", case.sentence


@pytest.mark.thorough
def test_the_same_seed_draws_the_same_cases_and_another_others():
    first, again, other = (sandbox.pack([c.arguments for c in cases.make_cases(seed)["4"]]) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.thorough
@pytest.mark.parametrize("module", MODULES)
def test_a_copy_of_the_reference_is_right_everywhere(prepared, module):
    find = Inside(**{module: solution(module)})
    for task in (task for task in mark.COMPULSORY if task.module == module):
        assert wrong_cases(find, prepared[task.number]) == []


@pytest.mark.thorough
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.task}-{m.name}".replace(" ", "_"))
def test_a_mistake_loses_points_in_its_task_and_in_no_earlier_one(prepared, mistake):
    text = solution(mistake.module)
    assert text.count(mistake.old) == 1
    find = Inside(**{mistake.module: text.replace(mistake.old, mistake.new)})
    for task in mark.COMPULSORY:
        if task.number == mistake.task:
            break
        if task.module == mistake.module:
            assert wrong_cases(find, prepared[task.number]) == []
    said = wrong_cases(find, prepared[mistake.task])
    assert said and not any("NameError" in line or "SyntaxError" in line for line in said), said


def test_there_are_mistakes_in_every_task():
    assert len(MISTAKES) >= 40
    assert {mistake.task for mistake in MISTAKES} == {task.number for task in mark.COMPULSORY}


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
        for case in (case for case in some if case.question != "threads"):  # whose answer is True
            wanted = None if case.judge else (np.ones(3), None, {"w": np.ones(2)}, True, "x", (1.0,))
            assert tasks.verdict(case, answer, wanted) and tasks.verdict(case, (answer,) * 6, wanted)


def test_a_dict_is_compared_name_by_name():
    wanted = {"w": np.ones(2), "b": np.zeros(1)}
    assert tasks.wrong({"w": np.ones(2), "b": np.zeros(1)}, wanted) == ""
    assert tasks.wrong({"w": np.ones(2)}, wanted) == "the result has no b"
    assert "w is 0" in tasks.wrong({"w": np.zeros(2), "b": np.zeros(1)}, wanted)


@pytest.mark.thorough
def test_the_open_variants_cases_know_right_from_wrong():
    for number, some in cases.make_variant_cases(3).items():
        assert len(some) >= 3
        _, _, by_torch, n = cases.VARIANTS[number]
        for case in some[:-1]:
            dout, *arguments = case.arguments[1:]
            tensors = [torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments]
            for tensor in tensors[:n]:
                tensor.requires_grad_()
            out = by_torch(*tensors)
            out.backward(torch.as_tensor(dout, dtype=torch.float64))
            right = (out.detach().numpy(), *(t.grad.numpy() for t in tensors[:n]))
            assert tasks.verdict(case, right, None) == ""
            assert tasks.verdict(case, (right[0], *(2 * g + 1 for g in right[1:])), None)
            assert tasks.verdict(case, right[:1], None)
            if number == "A":
                np.testing.assert_allclose(stride2_forward(*arguments), right[0])


def stride2_forward(x, w, b):
    """A slow answer, by the formula: enough for a test, and no solution of the backward pass."""
    n, f = len(x), len(w)
    out = np.zeros((n, f, (x.shape[2] - w.shape[2]) // 2 + 1, (x.shape[3] - w.shape[3]) // 2 + 1))
    for i, j, y, z in np.ndindex(out.shape):
        out[i, j, y, z] = (x[i, :, 2 * y : 2 * y + w.shape[2], 2 * z : 2 * z + w.shape[3]] * w[j]).sum() + b[j]
    return out


# Messages -------------------------------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were():
    thing = {"a": (1, 2.5, None, True, "x", np.arange(6.0).reshape(2, 3)), "b": tasks.Seed(3), "c": np.float32(2)}
    back = sandbox.unpack(sandbox.pack(thing))
    assert back["a"][:5] == thing["a"][:5] and back["b"] == thing["b"] and back["c"].dtype == np.float32
    np.testing.assert_array_equal(back["a"][5], thing["a"][5])


@pytest.mark.parametrize("thing", [np.array([None]), np.array(["x"]), object(), {1, 2}, b"x"])
def test_nothing_else_can_be_sent(thing):
    with pytest.raises(TypeError):
        sandbox.pack(thing)


def test_what_would_unpack_to_too_much_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(sandbox, "LARGEST_ANSWER", 10_000)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tree=np.zeros(1_000_000))
    assert len(buffer.getvalue()) < 10_000
    with pytest.raises(ValueError, match="more than an answer may have"):
        sandbox.unpack(buffer.getvalue())


def test_a_pickle_is_never_opened(tmp_path):
    np.savez(tmp_path / "evil.npz", tree=np.array([print], dtype=object))
    with pytest.raises(ValueError):
        sandbox.unpack((tmp_path / "evil.npz").read_bytes())


# Marking --------------------------------------------------------------------------------------------------------------


def run_mark(*arguments, **environment):
    command = [sys.executable, str(ROOT / "tutorials" / "assignment" / "mark.py"), *map(str, arguments)]
    threads = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | threads | environment)


def contents(folder):
    """Return {path: (mode, checksum)} of all that is in a folder."""
    there = {path: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}
    return {str(path): (path.lstat().st_mode, hashlib.sha256(text).hexdigest()) for path, text in there.items()}


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Mark a right submission, the empty starter, one with variants, and every hostile one, all at once."""
    folder = tmp_path_factory.mktemp("course")
    submissions = folder / "submissions"
    (folder / "kept.txt").write_text("kept")
    layers = solution("layers")
    write(submissions / "right", **{module: solution(module) for module in MODULES})
    write(submissions / "empty", **{path.stem: path.read_text() for path in STARTER.glob("*.py")})
    variants = (STARTER / "variants.py").read_text()
    average = (
        "def avgpool2x2_forward(x):\n    h, w = x.shape[2] // 2, x.shape[3] // 2\n"
        "    return x[:, :, : 2 * h, : 2 * w].reshape(*x.shape[:2], h, 2, w, 2).mean((3, 5)), x.shape\n\n\n"
        "def avgpool2x2_backward(dout, cache):\n    return np.zeros(cache)\n"
    )
    variants = variants.replace("Variant B:", "Variant b:").replace("def avgpool2x2", "def older")
    write(submissions / "half", layers=layers, variants=variants + "\n\n" + average)
    write(submissions / "copies", layers="from reference_numpy.layers import *\n")
    for name, (module, text) in HOSTILE.items():
        write(submissions / name, **{module: text})
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    for name, text in ISOLATED.items() if sandbox.level() == "bubblewrap" else ():
        write(submissions / name, layers=f"OUTSIDE, PORT = {str(folder)!r}, {server.getsockname()[1]}\n{text}")
    (submissions / "readme.txt").write_text("no submission")
    before = contents(folder)
    done = run_mark(submissions, "--seconds", 20, "--out", folder.parent / "marks")
    with open(folder.parent / "marks" / "marks.csv", encoding="utf-8-sig") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    with pytest.raises(BlockingIOError):  # nobody has called
        server.accept()
    server.close()
    return done, rows, (before, contents(folder)), folder.parent / "marks"


@pytest.mark.thorough
@posix
def test_a_right_submission_has_all_points_and_the_empty_one_none(marked):
    done, rows, *_ = marked
    assert done.returncode == 0, done.stderr
    assert float(rows["reference"]["points"]) == float(rows["right"]["points"]) == 100, rows["right"]
    assert float(rows["empty"]["points"]) == 0
    assert all(float(rows["right"][f"task {task.number} speed"]) > 0 for task in mark.COMPULSORY)


@pytest.mark.thorough
@posix
def test_the_empty_starter_has_a_helpful_line_for_each_task(marked):
    text = (marked[-1] / "feedback" / "empty.txt").read_text()
    for task in mark.COMPULSORY:
        assert f"{task.number:>2} {task.name}: 0 of {task.points} points" in text
        assert f"Task {task.number}: " in text or task.number == "4" and "conv2d_forward kept, and that" in text


@pytest.mark.thorough
@posix
def test_a_submission_without_a_module_loses_its_tasks_and_variants_are_apart(marked):
    _, rows, *_ = marked
    half = rows["half"]
    assert float(half["points"]) == sum(task.points for task in mark.COMPULSORY if task.module == "layers")
    assert half["task 8 first failure"].endswith("there is no network.py")
    assert half["task B points"] == "0.0" and "result 2 is 0" in half["task B first failure"]
    assert "task A points" not in half


@pytest.mark.thorough
@posix
def test_what_is_imported_from_the_reference_is_no_work(marked):
    _, rows, *_ = marked
    assert float(rows["copies"]["points"]) == 0 and "write yours" in rows["copies"]["task 1 first failure"]


SAID = {  # hostile submission: task, and what is said of it
    "hangs": ("2", r"it took more than \d+ s"),
    "hangs_at_import": ("1", r"it took more than \d+ s"),
    "crashes": ("1", r"it ended the interpreter \(0\)"),
    "segfaults": ("1", r"it ended the interpreter|PermissionError"),
    "exits": ("1", "layers.py cannot be imported: it called sys.exit"),
    "patches": ("1", "what came back cannot be read"),
    "patches_pytest": ("1", "PermissionError|cannot be imported|is not|has|out"),
    "imports_torch": ("1", "as it should be: import of torch halted"),
    "writes": ("1", "No such file or directory: .*written.txt"),
    "deletes": ("1", "No such file or directory: .*kept.txt"),
    "reads": ("1", "No such file or directory: .*layers.py"),
    "connects": ("1", "ConnectionRefusedError"),
    "forks": ("1", r"took more than \d+ s|BlockingIOError|ended the interpreter"),
    "outlives": ("1", "NoneType"),
    "kills": ("1", "NoneType"),
    "is_deaf": ("1", r"took more than \d+ s"),
    "fills": ("1", "more memory than there is|ended the interpreter"),
    "answers_itself": ("1", "what came back|ended the interpreter|no function|took more"),
}


@pytest.mark.thorough
@posix
@pytest.mark.parametrize("name", SAID)
def test_a_hostile_submission_costs_itself_alone(marked, name):
    _, rows, *_ = marked
    if name in ISOLATED and sandbox.level() != "bubblewrap":
        pytest.skip("needs bubblewrap, and leave to make a user space")
    task, said = SAID[name]
    assert re.search(said, rows[name][f"task {task} first failure"]), rows[name]
    assert float(rows[name]["points"]) <= 5


@pytest.mark.thorough
@posix
def test_printing_megabytes_changes_nothing(marked):
    _, rows, *_ = marked
    assert "linear_backward" in rows["prints"]["task 1 first failure"]
    assert "xxx" not in marked[0].stdout


@pytest.mark.thorough
@posix
def test_nothing_outside_changes_and_no_process_is_left(marked):
    done, _, (before, after), _ = marked
    assert before == after
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            text = command.read_text()
            assert not ("sandbox.py" in text and "submission" in text or text == "sleep\0987\0")


@pytest.mark.thorough
@posix
def test_the_table_has_a_row_for_each_and_the_picture_is_small(marked):
    done, rows, _, out = marked
    for name in rows:
        assert re.search(rf"^{name} +[\d.]+ ", done.stdout, re.MULTILINE)
    assert "readme" not in rows
    assert (out / "marks.png").stat().st_size < 80_000
    with Image.open(out / "marks.png") as image:
        assert len(image.convert("RGB").getcolors()) > 10


@posix
def test_links_pipes_and_huge_files_are_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(mark, "LARGEST", 10)
    submission = tmp_path / "submissions" / "odd"
    write(submission, layers="x = 1\n", large="x = 1234567\n")
    (submission / "link.py").symlink_to(submission / "layers.py")
    (submission / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(submission / "pipe")
    (submission / "data").mkdir()
    (submission / "data" / "w").write_text("1")
    seen = mark.for_all({"odd": submission}, lambda name, copy, hidden: sorted(p.name for p in copy.rglob("*")), 1)
    assert seen == {"odd": ["data", "layers.py", "w"]}


PIXELS_NET = """
class Net:
    size = 35

    def features(self, images):
        return images.flatten(1)

    def logit(self, h1, h2):
        return (h1 * h2).sum(1) / (h1.norm(dim=1) * h2.norm(dim=1))
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
def test_a_score_is_that_of_the_same_trials_for_every_net(tmp_path):
    nets = tmp_path / "nets"
    write(nets / "pixels", net=PIXELS_NET)
    write(nets / "dead", net=DEAD_NET)
    write(nets / "none", net="class Net: pass\n")
    write(nets / "prints", net="import sys\nsys.exit()\n")
    images = (np.random.default_rng(0).random((60, 105, 105)) < 0.1).astype(np.uint8)
    images[40:] = images[:20]
    trials = {"within": Trials(images, np.arange(40, 60), np.tile(np.arange(20), (20, 1)), np.arange(20))}
    found = {path.name: score.score(path, "net:Net", trials) for path in sorted(nets.iterdir())}
    assert found["pixels"]["within"]["right"] == 20 and found["pixels"]["parameters"] == 0
    assert found["dead"]["within"]["right"] == 0 and found["dead"]["parameters"] == 1226
    assert "has no size" in found["none"]["failure"] and "sys.exit" in found["prints"]["failure"]
    (nets / "pixels" / "best.pt").write_bytes(b"x")
    assert "is not a checkpoint" in score.score(nets / "pixels", "best.pt", trials)["failure"]
    assert score.score(nets / "dead", "best.pt", trials) == {"failure": "there is no best.pt"}
    rows = {name: {"within": {"seconds": 1.0}} | row for name, row in found.items()}
    score.write_scores(rows, trials, tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text("utf-8-sig").startswith("student,parameters,within")


@pytest.mark.thorough
@posix
def test_one_submission_alone_is_told_everything(tmp_path):
    write(tmp_path / "alone", learning=solution("learning").replace("0.99**epoch", "0.98**epoch"))
    done = run_mark(tmp_path / "alone", "--out", tmp_path / "out", "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert "alone: 4.1 of 100 points" in done.stdout and "10 of 12 cases" in done.stdout
    said = "the learning rate at epoch 1: 1 % less each epoch: the result is 0.196 where it should be 0.198"
    assert said in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("nowhere",), "there is no folder nowhere"),
        ((".",), "has no folders"),
        ((".", "--seed", "-1"), "--seed is at least 0"),
        ((".", "--at-once", "0"), "--at-once at least 1"),
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


@pytest.mark.thorough
def test_a_reference_that_fails_its_own_cases_is_said(monkeypatch, tmp_path):
    failing = mark.Mark(0.0, 0, 1, (("a sentence", "it is wrong"),))
    monkeypatch.setattr(mark, "mark", lambda *a, **k: {"1": failing})
    with pytest.raises(UserError, match="the reference itself fails in task 1: a sentence: it is wrong"):
        mark.mark_reference({"1": []}, Path(tmp_path))
