"""What is said of marks: the table, a page of feedback for each student, the CSV, and a page about the whole course."""

import ast
import csv
import io
import statistics
from collections import Counter
from typing import NamedTuple

from tutorials import common, pictures
from tutorials.assignment.sandbox import LARGEST_FILE, REFERENCE, one_line
from tutorials.assignment.tasks import COMPULSORY, TASKS, TOTAL, VARIANTS

SIGNS = {"right": "", "wrong": "", "too slow": "s", "not written": "-", "cannot be imported": "!"}  # of a task's state
LENGTH = 16  # nodes of a syntax tree that are compared at once
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
    speeds = [mark.speed for mark in marks.values() if mark.speed]
    return f"{statistics.geometric_mean(speeds):.2f}" if speeds else ""


# Copies ---------------------------------------------------------------------------------------------------------------


def most_alike(files):
    """Compare each submission with the reference and with the others.

    files: {name: runs_of(folder)}
    Returns {name: (share, whose, file)} of the file that is most like somebody else's: the share of its runs of LENGTH
    nodes that the other has too; (0, "", "") of whoever has no file that is long enough.
    """
    others = {"the reference": runs_of(REFERENCE)} | files
    others = {name: set().union(*of.values()) for name, of in others.items()}
    found = {}
    for name, of in files.items():
        found[name] = 0, "", ""
        for file, own in of.items():
            for other in others if len(own) >= FEWEST else ():
                share = len(own & others[other]) / len(own)
                if other != name and share > found[name][0]:
                    found[name] = share, other, file
    return found


def runs_of(folder):
    """Return {file: its runs} of the Python files in a folder."""
    return {path.relative_to(folder).as_posix(): runs(path) for path in sorted(folder.rglob("*.py")) if path.is_file()}


def runs(path):
    """Return all runs of LENGTH nodes of the syntax trees of a file's functions, their signatures apart.

    A node counts as its kind, such as a sum, a loop or a name, and what stands behind a dot as itself: so a renamed
    copy is a copy. Comments, docstrings, the layout and what stands outside functions do not count: what was given to
    everybody is no copy.
    """
    found = set()
    try:
        tree = ast.parse(path.read_bytes()[:LARGEST_FILE])
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            kinds = [kind for statement in body for kind in kinds_of(statement)]
            found |= {tuple(kinds[i : i + LENGTH]) for i in range(len(kinds) - LENGTH + 1)}
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # it is said elsewhere that it cannot be imported
    return found


def kinds_of(node):
    """Yield the kinds of the nodes of a syntax tree, depth first."""
    yield getattr(node, "attr", type(node).__name__)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context):  # whether a name is read or written
            yield from kinds_of(child)


# Each submission ------------------------------------------------------------------------------------------------------


def feedback(name, marks):
    """Return what is said of one submission: each task with its points and what failed, the same thing once."""
    bonus = total(marks, VARIANTS)
    more = f", and {bonus:g} for open variants" if bonus else ""
    lines = [f"{one_line(name)}: {total(marks):g} of {TOTAL} points{more}", ""]
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
            first, said = failures[0], f"     {in_words(failures)}"
            if first.said or said not in lines:  # what is wrong with a whole module is said once
                lines.append(said)
            if first.given and first.kind != "not written":
                lines.append(f"         given: {first.given}")
        if len(alike) > 5:
            lines.append(f"     and {len(alike) - 5} things more")
    return "\n".join(lines) + "\n"


def in_words(failures):
    """Return in one line the failures of which the same is said; "" for none."""
    if not failures:
        return ""
    cases = first_of([failed.sentence for failed in failures])
    return f"{cases}: {failures[0].said}" if failures[0].said else cases


def first_of(sentences):
    """Return the first of the sentences of cases, and how many there are more."""
    return sentences[0] + (f" (and {len(sentences) - 1} cases more)" if len(sentences) > 1 else "")


def table(rows, alike):
    """Return the lines of a table: one row a submission, one column a task."""
    columns = columns_of(rows)
    width = max(10, *(len(name) for name in rows))
    heads = "".join(f"{task.number:>7}" for task in columns)
    points = "".join(f"{task.points:>7}" for task in columns)
    lines = [f"{'':{width}} points  speed {heads}  most alike", f"{'of':>{width}} {TOTAL:>6}        {points}"]
    for name, marks in rows.items():
        cells = "".join(f"{cell(marks.get(task.number)):>7}" for task in columns)
        share, other, file = alike[name]
        like = f"{share:4.0%} of {one_line(file)}: {one_line(other)}" if share else ""
        lines.append(f"{one_line(name):{width}} {total(marks):>6g} {mean_speed(marks):>6} {cells}  {like}")
    return [
        *lines, "",
        "! cannot be imported, - not written, s too slow",
        "speed: the reference's time over the submission's, geometric mean of the tasks whose timed case is right",
        f"most alike: the share of a file's runs of {LENGTH} nodes of its syntax tree that somebody else has too",
    ]  # fmt: skip


def columns_of(rows):
    """Return the tasks that anybody has a mark of."""
    return [task for task in TASKS if any(task.number in marks for marks in rows.values())]


def cell(mark):
    """Return a task's points and the sign of its state, "" where an open variant was not handed in."""
    if mark is None:
        return ""
    sign = SIGNS[mark.state]
    return sign if sign in ("-", "!") and not mark.points else f"{mark.points:g}{sign}"


def write_marks(rows, alike, how, folder):
    """Write marks.csv, marks.png and feedback/NAME.txt, and of several submissions report.md and report.png.

    rows: {name: {task number: Mark}}; alike: from most_alike; how: in which way they were marked
    """
    for name, marks in rows.items():
        common.write_whole(folder / "feedback" / f"{name}.txt", feedback(name, marks).encode(errors="replace"))
    write_csv([csv_row(name, marks, alike) for name, marks in rows.items()], folder / "marks.csv")
    columns, cells = columns_of(rows), {}
    for name, marks in rows.items():
        found = [marks.get(task.number) for task in columns]
        cells[name] = [mark and (mark.passed / mark.n, mark.state) for mark in found]
    points = {name: total(marks) for name, marks in rows.items()}
    pictures.draw_marks(cells, points, [title(task) for task in columns], folder / "marks.png")
    if len(rows) > 1:
        sections, shares = class_report(rows, alike), share_right(rows)
        common.write_whole(folder / "report.md", as_markdown(sections, rows, how).encode(errors="replace"))
        sections[f"Marked {how}"] = []
        shares = {title(task): share for task, share in shares.items()}
        pictures.draw_class_report(sections, shares, list(points.values()), TOTAL, folder / "report.png")


def csv_row(name, marks, alike):
    """Return {column: value} of a submission."""
    share, other, file = alike[name]
    return {
        "student": name, "points": total(marks), "variants": total(marks, VARIANTS), "speed": mean_speed(marks),
        "most alike": f"{other} {file}".strip(), "share alike": f"{share:.2f}" if share else "",
        **{f"task {number} points": mark.points for number, mark in marks.items()},
        **{f"task {number} state": mark.state for number, mark in marks.items()},
        **{f"task {number} speed": f"{mark.speed:.3g}" if mark.speed else "" for number, mark in marks.items()},
        **{f"task {n} first failure": in_words(mark.failures[:1]) for n, mark in marks.items()},
    }  # fmt: skip


def write_csv(rows, path):
    """Write rows, {column: value} each, as a table with all their columns."""
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    common.write_whole(path, text.getvalue().encode("utf-8-sig"))  # by its mark spreadsheets know UTF-8


# The course -----------------------------------------------------------------------------------------------------------


def class_report(rows, alike):
    """Return what there is to say of all submissions, as {heading: lines}; what most had wrong comes first."""
    n = len(rows)
    wrong = [
        f"- {len(names)} of {n}: {first_of(list(said))} (task {task.number}): {next(iter(said.values()))}"
        for (task, names), said in hardest(rows)[:10]
    ]
    tasks = Counter(t for t in COMPULSORY for m in rows.values() if m[t.number].state in ("wrong", "too slow"))
    monday = [f"- Task {t.number}, {t.name}: wrong for {k} of {n}. {t.question}" for t, k in tasks.most_common(3)]
    copies = {}  # whose: those who have a file that is like it
    for name, (share, other, _) in alike.items():
        if share >= ALIKE:
            copies.setdefault(one_line(other), []).append(f"{one_line(name)} {share:.0%}")
    return {
        f"What {n} submissions have wrong": wrong,
        "What to talk about on Monday": monday,
        f"Whose files are {ALIKE:.0%} or more like": [f"- {other}: {', '.join(of)}" for other, of in copies.items()],
    }


def hardest(rows):
    """Return what is wrong in the tasks that were handed in, what most submissions have wrong first.

    Returns [((task, names), {sentence: what is said of the first})]: cases that the same submissions fail are one.
    """
    failed, groups = {}, {}
    for name, marks in rows.items():
        for task in COMPULSORY:
            for failure in marks[task.number].failures:
                if failure.kind in ("wrong", "too slow"):
                    failed.setdefault((task, failure.sentence), {})[name] = failure.said
    for (task, sentence), said in failed.items():
        groups.setdefault((task, tuple(said)), {})[sentence] = next(iter(said.values()))
    return sorted(groups.items(), key=lambda group: -len(group[0][1]))


def share_right(rows):
    """Return {task: share of all submissions' cases that are right}, the lowest first."""
    shares = {}
    for task in COMPULSORY:
        marks = [row[task.number] for row in rows.values()]
        shares[task] = sum(mark.passed for mark in marks) / sum(mark.n for mark in marks)
    return dict(sorted(shares.items(), key=lambda pair: pair[1]))


def title(task):
    return f"{task.number} {task.name}"


def as_markdown(sections, rows, how):
    """Return the report as a page of Markdown, with the tasks and the points as tables."""
    lines = []
    for heading, below in sections.items():
        lines += [f"## {heading}" if lines else f"# {heading}", "", *(below or ["Nothing."]), ""]
    lines += ["## Tasks by the share of cases that are right", "", "| task | right | " + " | ".join(SIGNS) + " |"]
    lines.append("|---" * (2 + len(SIGNS)) + "|")
    for task, share in share_right(rows).items():
        states = Counter(marks[task.number].state for marks in rows.values())
        lines.append(f"| {title(task)} | {share:.0%} | {' | '.join(str(states[s]) for s in SIGNS)} |")
    lines += ["", "## Points", ""]
    tens = Counter(min(int(total(marks) // 10), 9) for marks in rows.values())
    lines += [f"    {10 * i:>3} to {10 * i + (10 if i == 9 else 9):>3}  {'#' * tens[i]}" for i in range(9, -1, -1)]
    return "\n".join([*lines, "", f"Marked {how}."]) + "\n"
