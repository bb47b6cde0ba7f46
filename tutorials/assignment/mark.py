"""Mark a folder of submissions, or score their nets: python tutorials/assignment/mark.py SUBMISSIONS/

    mark.py SUBMISSIONS/                      one row a submission (SUBMISSIONS/NAME/*.py), one column a task
    mark.py SUBMISSIONS/alice                 one submission alone: everything that is said of it
    mark.py SUBMISSIONS/ --model net:Net      the one-shot accuracy of each submission's own net, class Net of net.py
    mark.py SUBMISSIONS/ --model best.pt      the same of a checkpoint of koch.py in each submission's folder

Each submission runs in a process of its own (sandbox.py), on a copy; nothing of SUBMISSIONS/ is changed. The table goes
to the terminal; marks.csv, marks.png and a feedback file for each student go to runs/marks/.
"""

import csv
import functools
import io
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # the reference answers in this process beside the submissions

import numpy as np  # noqa: E402

from reference_numpy.data import UserError  # noqa: E402
from tutorials import common, pictures  # noqa: E402
from tutorials.assignment import cases, score, tasks  # noqa: E402
from tutorials.assignment.sandbox import NAMES, Failure, Sandbox, level  # noqa: E402
from tutorials.assignment.tasks import TASKS  # noqa: E402

MODULES = tuple(dict.fromkeys(task.module for task in TASKS))  # layers, convolution, ...
AT_ONCE = max(1, min(8, os.cpu_count() or 1))  # submissions
LARGEST = 1 << 30  # bytes of a file that is copied
COMPULSORY, VARIANTS = ([task for task in TASKS if task.number.isdigit() == is_so] for is_so in (True, False))
TOTAL = sum(task.points for task in COMPULSORY)


class Mark(NamedTuple):
    """Hold a submission's mark for a task.

    points: 0..the task's; passed, n: cases; failures: (sentence, what is wrong) of each case that failed
    seconds: of the timed case, None where it failed; speed: the reference's seconds over these
    """

    points: float
    passed: int
    n: int
    failures: tuple
    seconds: float | None = None
    speed: float | None = None


NO_MARK = Mark("", 0, 0, ())  # of an open variant that was not handed in

# Marking --------------------------------------------------------------------------------------------------------------


def prepare(seed):
    """Draw the cases of all tasks and let the reference answer them: {task: [(Case, answer), ...]}."""
    drawn = cases.make_cases(seed)
    return {n: [(c, None if c.judge else tasks.ask(tasks.reference, c)) for c in some] for n, some in drawn.items()}


def mark_task(sandbox, task, asked):
    """Put a task's cases to a submission; return its Mark. When it hangs or dies, the task's other cases are lost."""
    passed, failures, seconds, lost = 0, [], None, ""
    for case, wanted in asked:
        try:
            if lost:
                raise Failure(lost)
            answer, took = sandbox.ask(case)
            said = tasks.verdict(case, answer, wanted)
            if case.timed and not said:
                seconds = min(took, *(sandbox.ask(case)[1] for _ in range(2))) if took < 1 else took
        except Failure as failure:
            said = str(failure)
            lost = f"not asked any more: {said}" if failure.lost else lost
        passed += not said
        if said:
            failures.append((case.sentence, said))
    points = int(10 * task.points * passed / len(asked)) / 10
    return Mark(points, passed, len(asked), tuple(failures), seconds)


def mark(folder, prepared, hidden=(), reference=None, seconds=10):
    """Mark a submission. Returns {task number: Mark}.

    folder: a copy; prepared: from prepare; hidden: as in Sandbox; seconds: for an answer
    reference: the reference's marks; None when this is the reference
    """
    marks = {}
    with Sandbox(folder, hidden, seconds, own_work=reference is not None) as sandbox:
        for task in (task for task in TASKS if task.number in prepared):
            if task in VARIANTS and not written(folder, task):
                continue
            found = mark_task(sandbox, task, prepared[task.number])
            if found.seconds:  # an open variant is as fast as itself
                found = found._replace(speed=(reference or {}).get(task.number, found).seconds / found.seconds)
            marks[task.number] = found
    return marks


def written(folder, task):
    """Say whether a submission has an open variant at all, as far as its text shows."""
    path = Path(folder) / f"{task.module}.py"
    text = path.read_text(errors="replace") if path.is_file() else ""
    return all(f"def {name}(" in text for name in task.functions) and f"Variant {task.number}:" not in text


def mark_reference(prepared, folder):
    """Mark reference_numpy itself, which also leaves its compiled loops for the others. Returns {task number: Mark}."""
    for module in MODULES[:-1]:
        (folder / f"{module}.py").write_text(f"from reference_numpy.{module} import *\n")
    marks = mark(folder, prepared, seconds=120)
    for number, found in marks.items():
        if found.failures:
            raise UserError(f"the reference itself fails in task {number}: {': '.join(found.failures[0])}")
    return marks


def find_submissions(folder):
    """Return {name: folder} of the submissions in a folder, which may be one itself. Raises UserError."""
    if os.name != "posix":
        raise UserError("submissions are marked on Linux, macOS or Windows' Subsystem for Linux, which can limit them")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the one with a folder for each submission")
    if any((folder / f"{module}.py").is_file() for module in MODULES):
        return {folder.resolve().name: folder}
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] not in "._"}
    if not found:
        raise UserError(f"{folder} has no folders; each submission is a folder with {', '.join(MODULES[:-1])}.py")
    return found


def for_all(submissions, work, at_once=AT_ONCE):
    """Let work(name, copy, hidden) run for each submission on a copy of its folder; return {name: result}.

    Some run at once; a line is shown for each that is done. What is hidden from each: all others' folders and copies.
    """
    results, done = {}, 0
    with tempfile.TemporaryDirectory(prefix="marking-") as temporary, ThreadPoolExecutor(at_once) as pool:
        hidden = [temporary, *{str(path.resolve().parent) for path in submissions.values()}]

        def one(name):
            copy = Path(temporary, name)
            try:
                shutil.copytree(submissions[name], copy, ignore=left_out)
            except OSError:  # what cannot be read is not there
                copy.mkdir(exist_ok=True)
            return work(name, copy, hidden)

        for name, result in zip(submissions, pool.map(one, submissions)):
            results[name], done = result, done + 1
            print(f"marked {done} of {len(submissions)}: {name}", flush=True)
    return results


def left_out(folder, names):
    """Return what is not copied of a submission: links, pipes and devices, huge files, and what tools leave behind."""
    paths = {name: Path(folder, name) for name in names}
    plain = {n for n, p in paths.items() if not p.is_symlink() and (p.is_dir() or p.is_file())}
    large = {n for n in plain if paths[n].is_file() and paths[n].stat().st_size > LARGEST}
    return set(names) - plain | large | {"__pycache__", ".git", ".ipynb_checkpoints"} & set(names)


def total(marks, tasks=COMPULSORY):
    """Return the points of tasks together."""
    return round(sum(marks[task.number].points for task in tasks if task.number in marks), 1)


def mean_speed(marks):
    """Return the geometric mean of the speeds, the reference's being 1; None where there is none."""
    speeds = [mark.speed for mark in marks.values() if mark.speed]
    return float(np.exp(np.mean(np.log(speeds)))) if speeds else None


# Saying it ------------------------------------------------------------------------------------------------------------


def print_table(rows):
    """Print one row a submission, one column a task; rows: {name: {task number: Mark}}, the reference's first."""
    columns = [task for task in TASKS if any(task.number in marks for marks in rows.values())]
    width = max(10, *(len(name) for name in rows))
    print(f"\n{'':{width}} points  speed " + "".join(f"{task.number:>5}" for task in columns))
    print(f"{'of':>{width}} {TOTAL:>6}        " + "".join(f"{task.points:>5}" for task in columns))
    for name, marks in rows.items():
        speed = mean_speed(marks)
        cells = "".join(f"{marks[t.number].points:>5g}" if t.number in marks else "    -" for t in columns)
        print(f"{name:{width}} {total(marks):>6g} {f'{speed:6.2f}' if speed else '     -'} {cells}")
    print("\nspeed: the reference's time over the submission's, geometric mean of the tasks that are right")


def feedback(name, marks):
    """Return what is said of one submission: each task with its points and what failed."""
    bonus = total(marks, VARIANTS)
    more = f", and {bonus:g} for open variants" if bonus else ""
    lines = [f"{name}: {total(marks):g} of {TOTAL} points{more}", ""]
    for task in (task for task in TASKS if task.number in marks):
        mark = marks[task.number]
        speed = f", {mark.speed:.2f} times as fast as the reference" if mark.speed else ""
        head = f"{task.number:>2} {task.name}: {mark.points:g} of {task.points} points"
        lines.append(f"{head} ({mark.passed} of {mark.n} cases{speed})")
        first = {}  # what is wrong: the sentences that it is said of
        for sentence, said in mark.failures:
            first.setdefault(said, []).append(sentence)
        for said, sentences in list(first.items())[:5]:
            more = f" (and {len(sentences) - 1} cases more)" if len(sentences) > 1 else ""
            lines.append(f"     {sentences[0]}{more}: {said}")
        lines += [f"     and {len(first) - 5} things more"] if len(first) > 5 else []
    return "\n".join(lines) + "\n"


def write_marks(rows, folder):
    """Write marks.csv, marks.png and feedback/NAME.txt."""
    columns = [task for task in TASKS if any(task.number in marks for marks in rows.values())]
    text, shares = io.StringIO(newline=""), {}
    writer = csv.writer(text)
    kinds = [f"task {t.number} {kind}" for kind in ("points", "speed", "first failure") for t in columns]
    writer.writerow(["student", "points", "variants", "speed", *kinds])
    for name, marks in rows.items():
        found = [marks.get(task.number, NO_MARK) for task in columns]
        failures = [": ".join(mark.failures[0]) if mark.failures else "" for mark in found]
        line = [name, total(marks), total(marks, VARIANTS), rounded(mean_speed(marks))]
        writer.writerow([*line, *(mark.points for mark in found), *(rounded(mark.speed) for mark in found), *failures])
        shares[name] = [mark.passed / mark.n if mark.n else np.nan for mark in found]
        common.write_whole(folder / "feedback" / f"{name}.txt", feedback(name, marks).encode(errors="replace"))
    common.write_whole(folder / "marks.csv", text.getvalue().encode("utf-8-sig"))  # by its mark spreadsheets know UTF-8
    points = {name: total(marks) for name, marks in rows.items()}
    pictures.draw_marks(shares, points, [f"{t.number} {t.name}" for t in columns], folder / "marks.png")


def rounded(number):
    """Return a number with three digits as text, nothing for None."""
    return "" if number is None else f"{number:.3g}"


# The command line -----------------------------------------------------------------------------------------------------


def mark_folder(folder, seed, seconds, at_once, out):
    """Mark all submissions of a folder."""
    submissions = find_submissions(folder)
    out = out or common.new_folder("marks")
    print(f"{len(submissions)} submission(s), {NAMES[level()]}; inputs drawn with seed {seed}", flush=True)
    prepared = prepare(seed)
    with tempfile.TemporaryDirectory(prefix="marking-") as temporary:
        rows = {"reference": mark_reference(prepared, Path(temporary))}
    if any(written(path, task) for path in submissions.values() for task in VARIANTS):
        prepared |= {number: [(case, None) for case in some] for number, some in cases.make_variant_cases(seed).items()}

    def work(name, copy, hidden):
        return mark(copy, prepared, hidden, rows["reference"], seconds)

    rows |= for_all(submissions, work, at_once)
    if len(submissions) == 1:
        print("\n" + feedback(*next(item for item in rows.items() if item[0] in submissions)))
    else:
        print_table(rows)
        for name in submissions:
            failed = [(number, mark.failures[0]) for number, mark in rows[name].items() if mark.failures]
            for number, failure in failed[:1]:
                print(f"{name}, task {number}: {': '.join(failure)}")
    write_marks(rows, out)
    print(f"in {out}/: marks.csv, marks.png, feedback/")


def main(arguments=None):
    """Run the command line; return the exit status, 2 for bad input."""
    parser = common.Parser(prog="tutorials/assignment/mark.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="SUBMISSIONS", help="a folder with a folder for each submission")
    parser.add_argument("--seed", type=int, default=0, help="draws the inputs (default 0)")
    parser.add_argument("--seconds", type=float, default=10, help="for one answer, compiling included (default 10)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="submissions (default: the number of cores)")
    parser.add_argument("--out", type=Path, help=f"where the results go (default: {common.RUNS}/marks, numbered)")
    parser.add_argument("--model", metavar="MODULE:CLASS", help="score nets instead: a class, or best.pt")
    options = parser.parse_args(arguments)
    if min(options.seed, options.at_once - 1) < 0 or options.seconds <= 0:
        parser.error("--seed is at least 0, --at-once at least 1, --seconds more than 0")

    def run():
        if not options.model:
            return mark_folder(options.folder, options.seed, options.seconds, options.at_once, options.out)
        at_once = functools.partial(for_all, at_once=options.at_once)
        return score.score_folder(find_submissions(options.folder), options.model, at_once, options.out)

    return common.guarded("mark.py", run)


if __name__ == "__main__":
    sys.exit(main())
