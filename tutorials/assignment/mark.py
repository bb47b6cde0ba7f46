"""Mark a folder of submissions, or score their nets: python tutorials/assignment/mark.py SUBMISSIONS/

    mark.py SUBMISSIONS/                      one row a submission (SUBMISSIONS/NAME/*.py), one column a task
    mark.py SUBMISSIONS/alice                 one submission alone: everything that is said of it
    mark.py SUBMISSIONS/ --model net:Net      the one-shot accuracy of each submission's own net, class Net of net.py
    mark.py SUBMISSIONS/ --model best.pt      the same of a checkpoint of koch.py in each submission's folder

Each submission runs in a process of its own (sandbox.py), on a copy; nothing of SUBMISSIONS/ is changed. The table goes
to the terminal; marks.csv, marks.png, the class report and a feedback file for each student go to runs/marks/.
"""

import contextlib
import functools
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # the reference answers in this process beside the submissions

from reference_numpy.data import UserError  # noqa: E402
from tutorials import common  # noqa: E402
from tutorials.assignment import cases, inside, report, score, tasks  # noqa: E402
from tutorials.assignment.report import Failed, Mark  # noqa: E402
from tutorials.assignment.sandbox import LEVELS, STAGES, Failure, Sandbox, hand_out, level, one_line  # noqa: E402
from tutorials.assignment.sandbox import refuse  # noqa: E402
from tutorials.assignment.tasks import TASKS  # noqa: E402

AT_ONCE = max(1, min(8, os.cpu_count() or 1))  # submissions
LARGEST = 1 << 30  # bytes of a file that is copied
FILES = list(dict.fromkeys(f"{task.module}.py" for task in TASKS))  # of a submission

# Marking --------------------------------------------------------------------------------------------------------------


def prepare(seed, numbers):
    """Draw the cases of tasks and let the reference answer them.

    numbers: the tasks'
    Returns {task number: [(Case, answer, seconds), ...]}; seconds of the timed case, None for the others.
    """
    drawn = cases.make_cases(seed)
    return {number: [(case, *reference_answer(case)) for case in drawn[number]] for number in numbers}


def reference_answer(case):
    """Return the right answer to a case, and the seconds that it takes, messages included, if the case is timed."""
    if case.answer is not None:
        return case.answer, None
    answer, seconds = inside.ask(tasks.reference, case.question, case.arguments), []  # compiled now
    for _ in range(3 if case.timed else 0):
        started = time.perf_counter()
        inside.unpack(inside.pack(case.arguments))
        inside.unpack(inside.pack(inside.ask(tasks.reference, case.question, case.arguments)))
        seconds.append(time.perf_counter() - started)
    return answer, min(seconds, default=None)


def mark(folder, prepared, given, seconds=10, check=True):
    """Mark a submission. Returns {task number: Mark}; an open variant that is not written has none.

    folder: a copy, which is changed; prepared: from prepare; given: folder of hand_out
    seconds: for an answer; check: look at the imports before
    """
    marks = {}
    if check:
        refuse(folder)
    with Sandbox(folder, seconds, 12 * seconds) as sandbox:
        for stage, (modules, _) in STAGES.items():
            sandbox.hand(given / stage)
            for module in modules:
                why = sandbox.load(module)
                for task in (task for task in TASKS if task.module == module and task.number in prepared):
                    asked = prepared[task.number]
                    marks[task.number] = unmarked(asked, module, why) if why else mark_task(sandbox, task, asked)
    there = [task.number for task in TASKS if task.number in marks]
    return {n: marks[n] for n in there if n.isdigit() or marks[n].state != "not written"}


def unmarked(asked, module, why):
    """Return the Mark of a task whose module is not there or cannot be imported."""
    said = f"{module}.py {why.kind}: {why}" if why.kind == "cannot be imported" else str(why)
    return Mark(0, 0, len(asked), (Failed(said, "", "", why.kind),))


def mark_task(sandbox, task, asked):
    """Put a task's cases to a submission; return its Mark. When it hangs or dies, the task's other cases are lost."""
    failures, speed, lost = [], None, None
    for case, wanted, reference_seconds in asked:
        if lost:
            failures.append(Failed(case.sentence, "", f"not asked any more: {lost}", ""))
            continue
        try:
            answer, took = sandbox.ask(case.question, case.arguments)
            said, kind = tasks.verdict(case, answer, wanted), "wrong"
            if case.timed and not said:
                times = [took]
                with contextlib.suppress(Failure):  # these count for the speed alone
                    while took < 1 and len(times) < 3:
                        times.append(sandbox.ask(case.question, case.arguments)[1])
                speed = reference_seconds / min(times)
        except Failure as failure:
            said, kind, lost = str(failure), failure.kind, failure if failure.lost else None
        if said:
            failures.append(Failed(case.sentence, case.given, one_line(said), kind))
    passed = len(asked) - len(failures)
    return Mark(int(10 * task.points * passed / len(asked)) / 10, passed, len(asked), tuple(failures), speed)


# Submissions ----------------------------------------------------------------------------------------------------------


def find_submissions(folder, files):
    """Return {name: folder} of the submissions in a folder, which may be one itself. Raises UserError.

    files: of which a submission has one at least
    """
    if os.name != "posix":
        raise UserError("submissions are marked on Linux, macOS or Windows' Subsystem for Linux, which can limit them")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the one with a folder for each submission")
    if any((folder / file).is_file() for file in files):
        return {folder.resolve().name: folder}
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] not in "._"]
    if not paths:
        raise UserError(f"{folder} has no folders; each submission is a folder with {', '.join(files)}")
    return {os.fsencode(path.name).decode(errors="backslashreplace"): path for path in paths}  # names are any bytes


def for_all(submissions, work, at_once=AT_ONCE):
    """Let work(name, copy) run for each submission on a copy of its folder; return {name: result}.

    Some run at once; a line is shown for each that is done.
    """
    results, done = {}, 0
    with tempfile.TemporaryDirectory(prefix="marking-") as temporary, ThreadPoolExecutor(at_once) as pool:

        def on_a_copy(name):
            copy_plain_files(submissions[name], Path(temporary, name))
            return work(name, Path(temporary, name))

        for name, result in zip(submissions, pool.map(on_a_copy, submissions)):
            results[name], done = result, done + 1
            print(f"marked {done} of {len(submissions)}: {one_line(name)}", flush=True)
    return results


def copy_plain_files(source, target):
    """Copy a submission's files, so that all may read them, but no links, pipes, huge files and compiled code."""
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        copy = target / Path(folder).relative_to(source)
        copy.mkdir()
        copy.chmod(0o755)  # under bubblewrap it is read by somebody else
        for path in (Path(folder, name) for name in names if not name.endswith((".so", ".pyd", ".pyc"))):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                with contextlib.suppress(OSError):  # what cannot be read is not there
                    shutil.copyfile(path, copy / path.name)
                    (copy / path.name).chmod(0o644)


# The command line -----------------------------------------------------------------------------------------------------


def mark_folder(folder, seed, seconds, at_once, out):
    """Mark all submissions of a folder."""
    submissions = find_submissions(folder, FILES)
    out = out or common.new_folder("marks")
    out.mkdir(parents=True, exist_ok=True)
    how = LEVELS[level()]
    print(f"{len(submissions)} submission(s), {how}; inputs drawn with seed {seed}", flush=True)
    prepared = prepare(seed, [task.number for task in TASKS])
    with tempfile.TemporaryDirectory(prefix="marking-") as temporary:
        hand_out(Path(temporary))

        def work(name, copy):
            return report.runs_of(copy), mark(copy, prepared, Path(temporary), seconds)

        found = for_all(submissions, work, at_once)
    rows = {name: marks for name, (_, marks) in found.items()}
    alike = report.most_alike({name: files for name, (files, _) in found.items()})
    if len(rows) == 1:
        print("\n" + report.feedback(*next(iter(rows.items()))))
    else:
        print("\n" + "\n".join(report.table(rows, alike)))
    report.write_marks(rows, alike, f"{how}; seed {seed}", out)
    print(f"in {out}/: {', '.join(sorted(path.name for path in out.iterdir()))}")


def main(arguments=None):
    """Run the command line; return the exit status, 2 for bad input."""
    parser = common.Parser(prog="tutorials/assignment/mark.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="SUBMISSIONS", help="a folder with a folder for each submission")
    parser.add_argument("--seed", type=int, default=0, help="draws the inputs (default 0)")
    parser.add_argument("--seconds", type=float, default=10, help="for one answer, compiling included (default 10)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="submissions (default: one a core, 8 at most)")
    parser.add_argument("--out", type=Path, help=f"where the results go (default: {common.RUNS}/marks, numbered)")
    parser.add_argument("--model", metavar="MODULE:CLASS", help="score nets instead: a class, or best.pt")
    options = parser.parse_args(arguments)
    if min(options.seed, options.at_once - 1) < 0 or options.seconds <= 0:
        parser.error("--seed is at least 0, --at-once at least 1, --seconds more than 0")
    if options.model and not re.fullmatch(r"\w+:\w+|[^:]+\.pt", options.model):
        parser.error("--model is MODULE:CLASS, such as net:Net, or a checkpoint, such as best.pt")

    def run():
        if not options.model:
            return mark_folder(options.folder, options.seed, options.seconds, options.at_once, options.out)
        module, _, name = options.model.partition(":")
        found = find_submissions(options.folder, [f"{module}.py" if name else module, *FILES])
        at_once = functools.partial(for_all, at_once=options.at_once)
        return score.score_folder(found, options.model, at_once, options.out)

    return common.guarded("mark.py", run)


if __name__ == "__main__":
    sys.exit(main())
