"""Run the tutorials: renew what they print and draw, and make their notebooks.

    python tutorials/build.py            run all, write output, figures/ and notebooks
    python tutorials/build.py --check    run all, write nothing; exit status 1 when anything differs
    python tutorials/build.py 1 4        some of them alone, by their numbers
    python tutorials/build.py notebooks  write all notebooks from what is stored, running nothing
    python tutorials/build.py page       write draw.html, the page to draw on, from the trained weights

The Markdown files are the source: tutorials/1-NAME.md, and solutions/1-NAME.md, which goes on where its tutorial ends.
A ```python block is run as Python's prompt runs it, after those before it, and nothing may come back that the prompt
would print by itself; the ```text block that follows it is what it printed, and a line
![caption](figures/1-1.png) after that is the figure that it showed. What a ```python varies block prints
has other numbers on other machines (times, trainings): only its words are compared. Elsewhere numbers with decimals may
differ by one in their last digit. Without Omniglot the tutorials run on invented alphabets, and then it is only said
whether they run. What a notebook holds is made of its Markdown and figures, nothing else.
"""

import ast
import base64
import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
os.environ.setdefault("MPLBACKEND", "agg")  # figures go into files, not on a screen

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import koch  # noqa: E402
from koch import UserError  # noqa: E402
from tutorials import common, page, pictures  # noqa: E402

BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"^!\[[^\n]*\]\((?:\.\./)?(figures/[\w.-]+)\)\n", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|\bnan\b|\binf\b")
ADDRESS = ""  # what git clone is given: the one place that names it; all notebooks take it from here, or from --address
FETCH = '''\
# This cell finds the project's folder. Run alone, as on Colab, it fetches the project first, or asks for its zip.
import importlib.util, os, pathlib, subprocess, sys, zipfile

PROJECT = "{address}"  # what git clone is given; python tutorials/build.py notebooks --address ADDRESS fills it in
while not os.path.exists("koch.py") and os.path.exists("../README.md"):
    os.chdir("..")
if not os.path.exists("koch.py") and PROJECT:
    subprocess.run(["git", "clone", "--depth", "1", PROJECT, "koch"], check=True)
    os.chdir("koch")
if not os.path.exists("koch.py"):
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.colab") is None:
        raise SystemExit("koch.py is not here: start Jupyter in the project's folder or in its folder tutorials/")
    from google.colab import files
    print("Choose the zip of the project.")
    zipfile.ZipFile(next(iter(files.upload()))).extractall("koch")
    os.chdir(next(pathlib.Path("koch").rglob("koch.py")).parent)
packages = {{"numpy": "numpy", "numba": "numba", "torch": "torch", "PIL": "pillow", "matplotlib": "matplotlib"}}
missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)
sys.path.insert(0, os.getcwd())
'''

# Reading and running --------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Hold a block of code.

    before: the prose above it; source: its code; varies: it stands after ```python; line: where the code begins
    output: the ```text block right below it, or None
    """

    before: str
    source: str
    varies: bool
    line: int
    output: str | None


def split(text):
    """Split a tutorial into its Blocks and what follows the last. UserError for another word than varies."""
    blocks, end = [], 0
    for found in BLOCK.finditer(text):
        if found[1] not in ("", " varies"):
            raise UserError(f"```python{found[1]}: after ```python stands nothing or varies")
        line = text[: found.start(2)].count("\n") + 1
        blocks.append(Block(text[end : found.start()], found[2], bool(found[1]), line, found[3]))
        end = found.end()
    return blocks, text[end:]


def join(blocks, rest):
    """Return the Markdown of what split returns."""
    text = ""
    for block in blocks:
        text += f"{block.before}```python{' varies' if block.varies else ''}\n{block.source}```\n"
        if block.output:
            text += f"\n```text\n{block.output}```\n"
    return text + rest


def run(path, blocks, namespace, number, figures):
    """Run a file's blocks; return them with what they printed as their output.

    path: its name in tracebacks; namespace: what the code before it left, changed; number: the tutorial's
    figures: {name: Image}, to which each plt.show() adds its figure
    """
    import matplotlib.pyplot as plt

    def show(*_, **__):
        for which in plt.get_fignums():
            buffer = io.BytesIO()
            plt.figure(which).savefig(buffer, format="png", dpi=110, facecolor="white", bbox_inches="tight")
            with Image.open(buffer) as image:
                figures[f"figures/{number}-{len(figures) + 1}.png"] = pictures.in_few_colours(image.convert("RGB"))
        plt.close("all")

    plt.show, new = show, []
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            enter(block, path, namespace)
        if plt.get_fignums():
            raise UserError(f"{path}:{block.line}: a figure is drawn and not shown; end with plt.show()")
        output = printed.getvalue()
        new.append(block._replace(output=output.rstrip() + "\n" if output else None))
    return new


def enter(block, path, namespace):
    """Run a block as Python's prompt does, statement after statement. UserError if the prompt would print a value."""
    def echo(value):
        if value is not None:
            raise UserError(f"{path}:{line}: Python's prompt would print {str(value)[:60]!r}; give the value a name")

    tree, shown = ast.increment_lineno(ast.parse(block.source, str(path)), block.line - 1), sys.displayhook
    sys.displayhook = echo
    try:
        for statement in tree.body:
            line = statement.lineno
            exec(compile(ast.Interactive([statement]), str(path), "single"), namespace)
    finally:
        sys.displayhook = shown


# Comparing ------------------------------------------------------------------------------------------------------------


def differences(old, new):
    """Return what differs between a file's blocks as stored and as run, one line each."""
    said = []
    for stored, ran in zip(old, new):
        lines = ((block.output or "").splitlines() for block in (stored, ran))
        for kept, printed in itertools.zip_longest(*lines, fillvalue=""):
            if not alike(kept, printed, stored.varies):
                said.append(f"line {stored.line}: the block prints {printed.strip()!r}, stored is {kept.strip()!r}")
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
    cells, (blocks, rest) = [code_cell(FETCH.format(address=address))], split(text)
    for block in blocks:
        add_prose(cells, block.before)
        cells.append(code_cell(block.source))
        if block.output:
            stream = {"output_type": "stream", "name": "stdout", "text": block.output.splitlines(True)}
            cells[-1]["outputs"].append(stream)
    add_prose(cells, rest)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def add_prose(cells, text):
    """Add a cell of prose; a figure that code drew goes to the output of the cell before, another into the prose."""
    attached = {}
    for found in FIGURE.finditer(text):
        name = Path(found[1]).name
        png = {"image/png": base64.b64encode((FOLDER / found[1]).read_bytes()).decode()}
        if re.match(r"\d-", name):
            cells[-1]["outputs"].append({"output_type": "display_data", "metadata": {}, "data": png})
            text = text.replace(found[0], "", 1)
        else:
            attached[name] = png
            text = text.replace(f"({found[1]})", f"(attachment:{name})")
    if text.strip():
        cells.append({"cell_type": "markdown", "metadata": {}, "source": text.strip("\n").splitlines(True)})
        cells[-1] |= {"attachments": attached} if attached else {}


def without_address(book):
    """Return a notebook's text without the address that a course has put into its first cell."""
    return re.sub(r'PROJECT = \\"[^"]*\\"', r'PROJECT = \\"\\"', book)


def code_cell(source):
    """Return a cell of code without output, not numbered yet."""
    lines = source.rstrip("\n").splitlines(True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}


# The command line -----------------------------------------------------------------------------------------------------


def build(number, check, address):
    """Run one tutorial and its solutions; write what is new, or say what differs. Returns the exit status."""
    _, data = koch.load_data(koch.Config())
    if not check and data != "omniglot":
        raise UserError("what the tutorials print is of Omniglot, which is not here; --check runs them without")
    (path,) = FOLDER.glob(f"{number}-*.md")
    paths, started = [path, FOLDER / "solutions" / path.name], time.perf_counter()
    texts = {p: p.read_text(encoding="utf-8") for p in paths if p.is_file()}
    namespace, figures, said, new = {"__name__": "__main__"}, {}, [], {}
    for p, text in texts.items():
        old, rest = split(text)
        ran = run(p.relative_to(FOLDER), old, namespace, number, figures)
        new[p] = join(ran, rest)
        said += [f"{p.relative_to(FOLDER)}, {line}" for line in differences(old, ran)]
    seconds = time.perf_counter() - started
    named = [name for text in texts.values() for name in FIGURE.findall(text) if re.match(r"figures/\d-", name)]
    if unlike := set(named) ^ set(figures):
        raise UserError(f"{path.name}: shown or named, not both: {', '.join(sorted(unlike))}")
    if not check:
        write(path, new, figures, address)
        said = []
    said += [f"{name} {why}" for name, image in figures.items() if (why := figure_differs(FOLDER / name, image))]
    book = path.with_suffix(".ipynb")
    stored = book.read_text(encoding="utf-8") if book.is_file() else ""
    if not said and without_address(stored) != notebook(path.read_text(encoding="utf-8")):
        said.append(f"{book.name} is not what its Markdown makes")
    if data != "omniglot":  # then all numbers and figures differ
        said = []
    for line in said:
        print(line)
    print(f"{path.name}: ran in {seconds:.0f} s on {data}, {len(figures)} figures, {'differs' if said else 'fine'}")
    return 1 if said else 0


def write(path, texts, figures, address):
    """Write a tutorial's figures, its Markdown and that of its solutions ({path: text}), and its notebook."""
    for name, image in figures.items():
        content = io.BytesIO()
        image.save(content, "PNG", optimize=True)
        common.write_whole(FOLDER / name, content.getvalue())
    for p, text in texts.items():
        common.write_whole(p, text.encode())
    common.write_whole(path.with_suffix(".ipynb"), notebook(texts[path], address).encode())


def write_notebooks(address):
    """Write all notebooks from the stored Markdown and figures."""
    for path in sorted(FOLDER.glob("[0-9]-*.md")):
        common.write_whole(path.with_suffix(".ipynb"), notebook(path.read_text(encoding="utf-8"), address).encode())


def main():
    """Run the command line; return the exit status: 0, 1 when something differs or fails, 2 for bad input."""
    parser = common.Parser(prog="tutorials/build.py", description=__doc__.splitlines()[0])
    numbers = sorted(path.name[0] for path in FOLDER.glob("[0-9]-*.md"))
    parser.add_argument("number", nargs="*", help="tutorials to build (default: all), or notebooks, or page")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when anything differs")
    parser.add_argument("--address", default=ADDRESS, help="what the notebooks give to git clone when run alone")
    options = parser.parse_args()
    if options.check and options.number in (["page"], ["notebooks"]):
        parser.error("--check is for tutorials; page and notebooks are written")
    if options.number == ["page"]:
        return common.guarded("tutorials/build.py", page.write_page)
    if options.number == ["notebooks"]:
        return common.guarded("tutorials/build.py", lambda: write_notebooks(options.address))
    wanted = options.number or numbers
    if unknown := set(wanted) - set(numbers):
        parser.error(f"there is no tutorial {', '.join(sorted(unknown))}, only {', '.join(numbers)}")
    if len(wanted) == 1:
        return common.guarded("tutorials/build.py", lambda: build(*wanted, options.check, options.address))
    more = ["--address", options.address, *(["--check"] if options.check else [])]
    ended = [subprocess.run([sys.executable, __file__, number, *more]).returncode for number in wanted]
    return max(map(abs, ended))  # -9: killed


if __name__ == "__main__":
    sys.exit(main())
