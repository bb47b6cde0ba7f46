"""Run the tutorials: renew what they print and draw, and make their notebooks.

    python tutorials/build.py            run all, write output, figures/ and notebooks
    python tutorials/build.py --check    run all, write nothing; exit status 1 when anything differs
    python tutorials/build.py 1 4        some of them alone, by their numbers

The Markdown files are the source: tutorials/1-NAME.md, and solutions/1-NAME.md, which goes on where its tutorial ends.
A ```python block is run, after those before it; the ```text block that follows it is what it printed, and a line
![caption](figures/1-1.png) after that is the figure that its plt.show() showed. Two words after ```python:

    varies    other machines have other numbers (times, trainings), so that only the words are compared
    mnist     left out where MNIST is neither at hand nor to be downloaded

Numbers with decimals may differ by one in their last digit. Without Omniglot the tutorials run on invented alphabets,
and then it is only said whether they run. What a notebook holds is made of its Markdown and figures, nothing else.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
os.environ.setdefault("MPLBACKEND", "agg")  # figures go into files, not on a screen

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import koch  # noqa: E402
from koch import UserError  # noqa: E402
from tutorials import common  # noqa: E402

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"^!\[[^\n]*\]\((?:\.\./)?(figures/[\w.-]+)\)\n", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|\bnan\b|\binf\b")
WORDS = {"varies", "mnist"}  # what may stand after ```python
FETCH = '''\
# This cell finds the project's folder; run alone, as on Colab, it fetches the project first.
import os, subprocess, sys

PROJECT = "{address}"  # what you would give to git clone
while not os.path.exists("koch.py") and os.path.exists("../README.md"):
    os.chdir("..")
if not os.path.exists("koch.py"):
    if not PROJECT:
        raise SystemExit("set PROJECT, above, to the address that this project is cloned from")
    subprocess.run(["git", "clone", "--depth", "1", PROJECT, "koch"], check=True)
    os.chdir("koch")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", "requirements.txt"], check=True)
sys.path.insert(0, os.getcwd())
'''

# Reading and running --------------------------------------------------------------------------------------------------


def split(text):
    """Split a tutorial into parts: [("prose", text), ("code", source, words, line), ("output", text), ...].

    An output is the ```text block right after a code block; every other fenced block is prose. line: where code begins.
    Raises UserError for a word after ```python that is none of WORDS.
    """
    parts, end = [], 0
    for found in BLOCK.finditer(text):
        language, words, body = found[1], set(found[2].split()), found[3]
        between = text[end : found.start()]
        is_output = language == "text" and parts and parts[-1][0] == "code" and not between.strip()
        if language != "python" and not is_output:
            continue
        if not is_output:
            parts.append(("prose", between))
        if is_output:
            parts.append(("output", body))
        elif unknown := words - WORDS:
            raise UserError(f"```python {' '.join(unknown)}: after ```python stands {' or '.join(sorted(WORDS))}")
        else:
            parts.append(("code", body, words, text[: found.start(3)].count("\n") + 1))
        end = found.end()
    return [*parts, ("prose", text[end:])]


def run(path, parts, namespace, number, figures):
    """Run a file's code; return the parts with what was printed in the outputs' place.

    path: its name in tracebacks; namespace: what the code before it left, changed; number: the tutorial's
    figures: {name: Image}, to which each plt.show() adds its figure
    """
    import matplotlib.pyplot as plt

    def show(*_, **__):
        for which in plt.get_fignums():
            from tutorials import pictures

            buffer = io.BytesIO()
            plt.figure(which).savefig(buffer, format="png", dpi=110, facecolor="white", bbox_inches="tight")
            with Image.open(buffer) as image:
                figures[f"figures/{number}-{len(figures) + 1}.png"] = pictures.in_few_colours(image.convert("RGB"))
        plt.close("all")

    plt.show, new, skipped = show, [], False
    for part in parts:
        if part[0] == "output" and not skipped:
            continue
        skipped = part[0] == "code" and "mnist" in part[2] and not mnist_at_hand()  # its stored output is kept
        new.append(part)
        if part[0] == "code" and not skipped:
            _, source, _, line = part
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                tree = ast.parse(source, str(path))
                exec(compile(ast.increment_lineno(tree, line - 1), str(path), "exec"), namespace)
            if plt.get_fignums():
                raise UserError(f"{path}:{line}: a figure is drawn and not shown; end with plt.show()")
            if printed.getvalue():
                new.append(("output", printed.getvalue().rstrip() + "\n"))
    return new


def mnist_at_hand():
    """Say whether MNIST can be had."""
    try:
        koch.load_mnist()
    except UserError:
        return False
    return True


def join(parts):
    """Return the Markdown of parts."""
    text = ""
    for part in parts:
        if part[0] == "prose":
            text += part[1]
        elif part[0] == "code":
            text += f"```python{''.join(f' {word}' for word in sorted(part[2]))}\n{part[1]}```\n"
        else:
            text += f"\n```text\n{part[1]}```\n"
    return text


# Comparing ------------------------------------------------------------------------------------------------------------


def differences(old, new):
    """Return what differs between a file's parts as stored and as run, one line each."""
    said = []
    stored = [(part, after) for part, after in zip(old, [*old[1:], ("prose", "")]) if part[0] == "code"]
    ran = [(part, after) for part, after in zip(new, [*new[1:], ("prose", "")]) if part[0] == "code"]
    for (part, before), (_, after) in zip(stored, ran):
        before, after = (piece[1] if piece[0] == "output" else "" for piece in (before, after))
        lines, printed = before.splitlines(), after.splitlines()
        lines += [""] * (len(printed) - len(lines))
        printed += [""] * (len(lines) - len(printed))
        for one, other in zip(lines, printed):
            if not alike(one, other, "varies" in part[2]):
                said.append(f"line {part[3]}: the block prints {other.strip()!r}, stored is {one.strip()!r}")
                break
    return said


def alike(one, other, any_number=False):
    """Say whether two lines are the same but for spaces and, in numbers with decimals, one in the last digit."""
    words = [" ".join(NUMBER.sub(" # ", line).split()) for line in (one, other)]
    if words[0] != words[1]:
        return False
    return any_number or all(map(near, NUMBER.findall(one), NUMBER.findall(other)))


def near(one, other):
    """Say whether two printed numbers are the same, or differ by one in the last digit after the point."""
    if one == other:
        return True
    mantissa, _, exponent = one.partition("e")
    decimals = len(mantissa.partition(".")[2])
    if not decimals or "n" in one + other:
        return False
    unit = 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(one.replace(",", "")) - float(other.replace(",", ""))) < 1.5 * unit


def figure_differs(stored, image):
    """Say whether a stored figure is missing, too large for the repository, or not the one that was drawn."""
    if not stored.is_file():
        return "is missing"
    if stored.stat().st_size >= 80_000:
        return f"has {stored.stat().st_size:,} bytes, not less than 80,000"
    with Image.open(stored) as old:
        old = old.convert("L")
    image = image.convert("L")
    if max(abs(a - b) for a, b in zip(old.size, image.size)) > 0.05 * max(old.size):  # fonts differ a little
        return f"has {old.size} pixels, drawn were {image.size}"
    small = [np.asarray(each.resize((60, 40), Image.Resampling.BOX), float) for each in (old, image)]
    apart = np.abs(small[0] - small[1]).mean()
    return f"looks other than what was drawn ({apart:.1f} of 255 grey levels on average)" if apart > 6 else ""


# Notebooks ------------------------------------------------------------------------------------------------------------


def notebook(text, address=""):
    """Return a tutorial's notebook as JSON (nbformat 4.5): its prose, code and stored output, its figures inside.

    address: what git clone is given in the first cell, which fetches the project when the notebook is run alone
    """
    cells = [code_cell(FETCH.format(address=address), [])]
    for part in split(text):
        if part[0] == "prose":
            rest, attached = part[1], {}
            for found in FIGURE.finditer(part[1]):
                name = Path(found[1]).name
                png = {"image/png": base64.b64encode((FOLDER / found[1]).read_bytes()).decode()}
                if re.match(r"\d-", name):  # what the cell before it drew
                    cells[-1]["outputs"].append({"output_type": "display_data", "metadata": {}, "data": png})
                    rest = rest.replace(found[0], "", 1)
                else:
                    attached[name] = png
                    rest = rest.replace(f"({found[1]})", f"(attachment:{name})")
            if rest.strip():
                cells.append({"cell_type": "markdown", "metadata": {}, "source": rest.strip("\n").splitlines(True)})
                cells[-1] |= {"attachments": attached} if attached else {}
        elif part[0] == "code":
            cells.append(code_cell(part[1], []))
        else:
            stream = {"output_type": "stream", "name": "stdout", "text": part[1].splitlines(True)}
            cells[-1]["outputs"].append(stream)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def without_address(book):
    """Return a notebook's text without the address that a course has put into its first cell."""
    return re.sub(r'PROJECT = \\"[^"]*\\"', r'PROJECT = \\"\\"', book)


def code_cell(source, outputs):
    """Return a cell of code, not numbered yet."""
    lines = source.rstrip("\n").splitlines(True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs, "source": lines}


# The command line -----------------------------------------------------------------------------------------------------


def build(number, check, address):
    """Run one tutorial and its solutions; write what is new, or say what differs. Returns the exit status."""
    (path,) = FOLDER.glob(f"{number}-*.md")
    paths, started = [path, FOLDER / "solutions" / path.name], time.perf_counter()
    texts = {p: p.read_text(encoding="utf-8") for p in paths if p.is_file()}
    namespace, figures, said, new = {"__name__": "__main__"}, {}, [], {}
    _, data = koch.load_data(koch.Config())
    for p, text in texts.items():
        old = split(text)
        parts = run(p.relative_to(FOLDER), old, namespace, number, figures)
        new[p] = join(parts)
        said += [f"{p.relative_to(FOLDER)}, {line}" for line in differences(old, parts)] if data == "omniglot" else []
    seconds = time.perf_counter() - started
    named = [name for text in texts.values() for name in FIGURE.findall(text) if re.match(r"figures/\d-", name)]
    if unlike := set(named) ^ set(figures):
        raise UserError(f"{path.name}: shown or named, not both: {', '.join(sorted(unlike))}")
    if not check and data == "omniglot":
        for name, image in figures.items():
            content = io.BytesIO()
            image.save(content, "PNG", optimize=True)
            common.write_whole(FOLDER / name, content.getvalue())
        for p, text in new.items():
            common.write_whole(p, text.encode())
        common.write_whole(path.with_suffix(".ipynb"), notebook(new[path], address).encode())
        said = []
    if not check and data != "omniglot":
        raise UserError("what the tutorials print is of Omniglot, which is not here; --check runs them without")
    if data == "omniglot":
        said += [f"{name} {why}" for name, image in figures.items() if (why := figure_differs(FOLDER / name, image))]
        kept = path.with_suffix(".ipynb")
        stored = kept.read_text(encoding="utf-8") if kept.is_file() else ""
        if not said and without_address(stored) != notebook(path.read_text(encoding="utf-8")):
            said.append(f"{kept.name} is not what its Markdown makes")
    for line in said:
        print(line)
    print(f"{path.name}: ran in {seconds:.0f} s on {data}, {len(figures)} figures, {'differs' if said else 'fine'}")
    return 1 if said else 0


def main():
    """Run the command line; return the exit status: 0, 1 when something differs or fails, 2 for bad input."""
    parser = common.Parser(prog="tutorials/build.py", description=__doc__.splitlines()[0])
    every = sorted(path.name[0] for path in FOLDER.glob("[0-9]-*.md"))
    parser.add_argument("number", nargs="*", help="tutorials to build (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when anything differs")
    parser.add_argument("--address", default="", help="what the notebooks give to git clone when they are run alone")
    options = parser.parse_args()
    numbers = options.number or every
    if unknown := set(numbers) - set(every):
        parser.error(f"there is no tutorial {', '.join(sorted(unknown))}, only {', '.join(every)}")
    if len(numbers) > 1:  # each in a process of its own, as a reader would
        more = ["--check"] * options.check + ["--address", options.address]
        return max(subprocess.run([sys.executable, __file__, number, *more]).returncode for number in numbers)
    return common.guarded("tutorials/build.py", lambda: build(numbers[0], options.check, options.address))


if __name__ == "__main__":
    sys.exit(main())
