"""What is said of marks: the table, a page of feedback for each student, the CSV, and a page about the whole course."""

import ast
import csv
import io
import keyword
import math
import tokenize
from collections import Counter
from typing import NamedTuple

from tutorials import common, pictures
from tutorials.assignment.sandbox import REFERENCE, one_line
from tutorials.assignment.tasks import COMPULSORY, TASKS, TOTAL, VARIANTS

SIGNS = {"right": "", "wrong": "", "too slow": "s", "not written": "-", "cannot be imported": "!"}  # of a task's state
LENGTH = 16  # tokens that are compared at once
FEWEST = 60  # such runs in a file that something is said of
ALIKE = 0.5  # share of a file from which on the report names it


class Failed(NamedTuple):
    """Hold a case that failed: its sentence, what was given, what is wrong, and which kind of wrong it is.

    kind: "wrong", "too slow", "not written", "cannot be imported", or "" where the case was not asked any more
    """

    sentence: str
    given: str
    said: str
    kind: str


class Mark(NamedTuple):
    """Hold a submission's mark for a task.

    points: 0..the task's; passed, n: cases; failures: a Failed for each case that is not right
    speed: the reference's seconds over the submission's, None where the timed case failed
    """

    points: float
    passed: int
    n: int
    failures: tuple
    speed: float | None = None

    @property
    def state(self):
        """Return "right", or the kind that most of the failures are of."""
        kinds = Counter(failed.kind for failed in self.failures if failed.kind)
        return kinds.most_common(1)[0][0] if kinds else "right"


def total(marks, tasks=COMPULSORY):
    """Return the points of tasks together."""
    return round(sum(marks[task.number].points for task in tasks if task.number in marks), 1)


def mean_speed(marks):
    """Return the geometric mean of the speeds as text; "" where there is none."""
    logarithms = [math.log(mark.speed) for mark in marks.values() if mark.speed]
    return f"{math.exp(sum(logarithms) / len(logarithms)):.2f}" if logarithms else ""


# Copies ---------------------------------------------------------------------------------------------------------------


def most_alike(files):
    """Compare each submission with the reference and with the others.

    files: {name: runs_of(folder)}
    Returns {name: (share, whose, file)} of the file that is most like somebody else's: the share of its runs of LENGTH
    tokens that the other has too. Whoever has no file that is long enough is left out.
    """
    others = {"the reference": runs_of(REFERENCE)} | files
    others = {name: set().union(*of.values()) for name, of in others.items()}
    found = {}
    for name, of in files.items():
        for file, own in of.items():
            for other in (other for other in others if other != name and len(own) >= FEWEST):
                share = len(own & others[other]) / len(own)
                if share > found.get(name, (0,))[0]:
                    found[name] = share, other, file
    return found


def runs_of(folder):
    """Return {file: its runs} of the Python files in a folder."""
    return {path.name: runs(path) for path in sorted(folder.rglob("*.py")) if path.is_file()}


def runs(path):
    """Return all runs of LENGTH tokens in the bodies of a file's functions.

    Names are all one name but behind a dot, numbers one number, texts one text; comments, docstrings, the layout and
    what stands outside functions, imports and signatures, do not count. So a renamed copy is a copy, and what was given
    to everybody is none.
    """
    found = set()
    try:
        functions = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            body = function.body[1:] if ast.get_docstring(function) else function.body
            tokens = [normal for node in body for normal in normalised(ast.unparse(node))]
            found |= {tuple(tokens[i : i + LENGTH]) for i in range(len(tokens) - LENGTH + 1)}
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        pass  # it is said elsewhere that it cannot be imported
    return found


def normalised(text):
    """Yield the tokens of a statement, its own names all alike."""
    before = ""
    for kind, token, *_ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind == tokenize.NAME and not keyword.iskeyword(token) and before != ".":
            yield "name"
        elif kind in (tokenize.NUMBER, tokenize.STRING):
            yield tokenize.tok_name[kind]
        elif kind in (tokenize.NAME, tokenize.OP):
            yield token
        before = token


# Each submission ------------------------------------------------------------------------------------------------------


def feedback(name, marks):
    """Return what is said of one submission: each task with its points and what failed, the same thing once."""
    bonus = total(marks, VARIANTS)
    more = f", and {bonus:g} for open variants" if bonus else ""
    lines, before = [f"{one_line(name)}: {total(marks):g} of {TOTAL} points{more}", ""], set()
    for task in (task for task in TASKS if task.number in marks):
        mark = marks[task.number]
        speed = f", {mark.speed:.2f} times as fast as the reference" if mark.speed else ""
        state = f", {mark.state}" if mark.state != "right" else ""
        head = f"{task.number:>2} {task.name}: {mark.points:g} of {task.points} points"
        lines.append(f"{head} ({mark.passed} of {mark.n} cases{state}{speed})")
        alike = {}  # what is wrong: the failures that it is said of
        for failed in mark.failures:
            alike.setdefault(failed.said, []).append(failed)
        for failures in list(alike.values())[:5]:
            lines += said_of(failures, before)
        lines += [f"     and {len(alike) - 5} things more"] if len(alike) > 5 else []
    return "\n".join(lines) + "\n"


def said_of(failures, before):
    """Return the lines about failures of which the same is said.

    before: what has been said of whole modules, which is said once
    """
    first = failures[0]
    if not first.given and first.kind:
        return [] if first in before or before.add(first) else [f"     {in_words(first)}"]
    more = f" (and {len(failures) - 1} cases more)" if len(failures) > 1 else ""
    given = [f"         given: {first.given}"] if first.given and first.kind != "not written" else []
    return [f"     {first.sentence}{more}: {first.said}", *given]


def in_words(failed):
    """Return a failure in one line."""
    return ": ".join(filter(None, (failed.sentence, failed.said)))


def table(rows, alike):
    """Return the lines of a table: one row a submission, one column a task."""
    columns = columns_of(rows)
    width = max(10, *(len(name) for name in rows))
    heads = "".join(f"{task.number:>7}" for task in columns)
    lines = [f"{'':{width}} points  speed {heads}  most alike"]
    lines.append(f"{'of':>{width}} {TOTAL:>6}        " + "".join(f"{task.points:>7}" for task in columns))
    for name, marks in rows.items():
        cells = "".join(f"{cell(marks.get(task.number)):>7}" for task in columns)
        speed = mean_speed(marks)
        lines.append(f"{one_line(name):{width}} {total(marks):>6g} {speed:>6} {cells}  {likeness(name, alike)}")
    lines += ["", "! cannot be imported, - not written, s too slow"]
    lines += ["speed: the reference's time over the submission's, geometric mean of the tasks that are right"]
    lines += [f"most alike: the share of a file's runs of {LENGTH} tokens that somebody else has too, names apart"]
    return lines


def columns_of(rows):
    """Return the tasks that anybody has a mark of."""
    return [task for task in TASKS if any(task.number in marks for marks in rows.values())]


def cell(mark):
    """Return a task's points and the sign of its state, "" where an open variant was not handed in."""
    if mark is None:
        return ""
    sign = SIGNS[mark.state]
    return sign if sign in ("-", "!") and not mark.points else f"{mark.points:g}{sign}"


def likeness(name, alike):
    """Return how much of which file is like whose, "" where nothing was long enough."""
    share, other, file = alike.get(name, (0, "", ""))
    return f"{share:4.0%} of {one_line(file)}: {one_line(other)}" if share else ""


def write_marks(rows, alike, how, folder):
    """Write marks.csv, marks.png and feedback/NAME.txt, and of several submissions report.md and report.png.

    rows: {name: {task number: Mark}}; alike: from most_alike; how: in which way they were marked
    """
    columns, text = columns_of(rows), io.StringIO(newline="")
    writer = csv.writer(text)
    kinds = [f"task {t.number} {kind}" for kind in ("points", "state", "speed", "first failure") for t in columns]
    writer.writerow(["student", "points", "variants", "speed", "most alike", "share alike", *kinds])
    for name, marks in rows.items():
        found = [marks.get(task.number, Mark("", 0, 0, ())) for task in columns]
        share, other, file = alike.get(name, ("", "", ""))
        line = [name, total(marks), total(marks, VARIANTS), mean_speed(marks), f"{other} {file}".strip()]
        line += [share and f"{share:.2f}", *(mark.points for mark in found)]
        line += [mark.state if mark.n else "" for mark in found]
        line += ["" if mark.speed is None else f"{mark.speed:.3g}" for mark in found]
        writer.writerow([*line, *(in_words(mark.failures[0]) if mark.failures else "" for mark in found)])
        common.write_whole(folder / "feedback" / f"{name}.txt", feedback(name, marks).encode(errors="replace"))
    common.write_whole(folder / "marks.csv", text.getvalue().encode("utf-8-sig"))  # by its mark spreadsheets know UTF-8
    points = {name: total(marks) for name, marks in rows.items()}
    cells = {
        name: [(m.passed / m.n, m.state) if (m := marks.get(task.number)) else None for task in columns]
        for name, marks in rows.items()
    }
    pictures.draw_marks(cells, points, [f"{task.number} {task.name}" for task in columns], folder / "marks.png")
    if len(rows) > 1:
        sections = class_report(rows, alike)
        common.write_whole(folder / "report.md", as_markdown(sections, rows, how).encode(errors="replace"))
        shares = {f"{task.number} {task.name}": share for share, task in share_right(rows)}
        drawn = sections | {f"Marked {how}": []}
        pictures.draw_class_report(drawn, shares, list(points.values()), TOTAL, folder / "report.png")


# The course -----------------------------------------------------------------------------------------------------------


def class_report(rows, alike):
    """Return what there is to say of all submissions, as {heading: lines}; what most had wrong comes first."""
    n, wrong = len(rows), []
    for names, task, sentences, said in hardest(rows)[:10]:
        more = f" (and {len(sentences) - 1} cases more)" if len(sentences) > 1 else ""
        wrong.append(f"- {len(names)} of {n}: {sentences[0]}{more} (task {task.number}): {said}")
    monday = [f"- Task {t.number}, {t.name}: wrong for {k} of {n}. {t.question}" for k, t in most_wrong(rows)[:3]]
    copies = {}  # whose: those who have a file that is like it
    for name in rows:
        share, other, _ = alike.get(name, (0, "", ""))
        if share >= ALIKE:
            copies.setdefault(one_line(other), []).append(f"{one_line(name)} {share:.0%}")
    return {
        f"What {n} submissions have wrong": wrong,
        "What to talk about on Monday": monday,
        f"Whose files are {ALIKE:.0%} or more like": [f"- {other}: {', '.join(of)}" for other, of in copies.items()],
    }


def as_markdown(sections, rows, how):
    """Return the report as a page of Markdown, with the tasks and the points as tables."""
    lines = []
    for heading, below in sections.items():
        lines += [f"## {heading}" if lines else f"# {heading}", "", *(below or ["Nothing."]), ""]
    lines += ["## Tasks by the share of cases that are right", "", "| task | right | " + " | ".join(SIGNS) + " |"]
    lines.append("|---" * (2 + len(SIGNS)) + "|")
    for share, task in sorted(share_right(rows)):
        states = Counter(marks[task.number].state for marks in rows.values())
        lines.append(f"| {task.number} {task.name} | {share:.0%} | {' | '.join(str(states[s]) for s in SIGNS)} |")
    lines += ["", "## Points", ""]
    tens = Counter(min(int(total(marks) // 10), 9) for marks in rows.values())
    lines += [f"    {10 * i:>3} to {10 * i + (10 if i == 9 else 9):>3}  {'#' * tens[i]}" for i in range(9, -1, -1)]
    return "\n".join([*lines, "", f"Marked {how}."]) + "\n"


def hardest(rows):
    """Return what is wrong in the tasks that were handed in: (names, task, sentences of cases, said), most names first.

    Cases of a task that the same submissions fail are one thing.
    """
    failed, groups = {}, {}
    for name, marks in rows.items():
        for task in COMPULSORY:
            for failure in marks[task.number].failures:
                if failure.kind in ("wrong", "too slow"):
                    failed.setdefault((task, failure.sentence), {})[name] = failure.said
    for (task, sentence), said in failed.items():
        groups.setdefault((task, frozenset(said)), []).append((sentence, next(iter(said.values()))))
    found = [(names, task, [s for s, _ in cases], cases[0][1]) for (task, names), cases in groups.items()]
    return sorted(found, key=lambda group: -len(group[0]))


def most_wrong(rows):
    """Return (number of submissions that have it wrong, task), most first; what is not written is not wrong."""
    wrong = [(sum(m[t.number].state in ("wrong", "too slow") for m in rows.values()), t) for t in COMPULSORY]
    return sorted((pair for pair in wrong if pair[0]), key=lambda pair: -pair[0])


def share_right(rows):
    """Return (share of all submissions' cases that are right, task) of each task."""
    return [(sum(m[t.number].passed / m[t.number].n for m in rows.values()) / len(rows), t) for t in COMPULSORY]
