"""The tutorials run and print what they say; their notebooks and figures are what their Markdown makes."""

import ast
import base64
import codeop
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from koch import FILES, UserError, data_file
from tutorials import build

TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]-*.md"))
SOLUTIONS = sorted((ROOT / "tutorials" / "solutions").glob("*.md"))
PAGES = [*TUTORIALS, *SOLUTIONS, *sorted((ROOT / "tutorials" / "assignment").glob("*.md")), ROOT / "README.md"]
BUILD = [sys.executable, str(ROOT / "tutorials" / "build.py")]


def name_of(path):
    return path.parent.name + "-" + path.stem if path in SOLUTIONS else path.stem


def blocks(path):
    return build.split(path.read_text())[0]


# The lessons ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Run all tutorials, two at once, and compare; {number: (exit status, what was said)}."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    waiting, found, running = [path.name[0] for path in TUTORIALS], {}, {}
    while waiting or running:
        while waiting and len(running) < 2:
            number = waiting.pop(0)
            log = open(tmp_path_factory.mktemp("tutorial") / "log", "w+")
            command = [*BUILD, number, "--check"]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            running[number] = process, log
        number = next(iter(running))
        process, log = running.pop(number)
        process.wait()
        log.seek(0)
        found[number] = process.returncode, log.read()
        log.close()
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_a_tutorial_runs_and_prints_and_draws_what_it_says(checked, path):
    status, said = checked[path.name[0]]
    assert status == 0, said
    assert re.search(rf"{re.escape(path.name)}: ran in \d+ s on (omniglot|invented), \d figures, fine", said)


def test_there_are_nine_with_solutions_and_notebooks_in_order():
    assert [path.name[0] for path in TUTORIALS] == list("123456789")
    assert [path.name for path in SOLUTIONS] == [path.name for path in TUTORIALS]
    assert all(path.with_suffix(".ipynb").is_file() for path in TUTORIALS)


@pytest.mark.parametrize("path", [*TUTORIALS, *SOLUTIONS], ids=name_of)
def test_a_block_of_code_has_at_most_15_lines_of_120_columns(path):
    for block in blocks(path):
        lines = block.source.splitlines()
        assert len(lines) <= 15 and max(map(len, lines)) <= 120, f"{path.name}:{block.line}: {len(lines)} lines"


@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_a_tutorial_begins_with_its_question_and_ends_with_three_sentences_that_a_student_can_say_now(path):
    text = path.read_text()
    assert len(re.findall(r"\*\*The question:\s[^*]+\?\*\*", text.partition("\n## ")[0])) == 1
    heading, _, last = text.rpartition("\n## ")[2].partition("\n")
    sentences = re.findall(r"^\d\. (.+(?:\n   .+)*)", last, re.MULTILINE)
    assert heading == "What you can now say" and len(sentences) == 3
    for sentence in sentences:
        assert sentence.endswith(".") and not re.search(r"[.!?] [A-Z]", sentence), sentence


@pytest.mark.parametrize("path", [*TUTORIALS, *SOLUTIONS], ids=name_of)
def test_plotting_code_stays_out_of_sight(path):
    """show.py has it: a block names a picture and what is in it."""
    assert not [block.line for block in blocks(path) if re.search(r"matplotlib|plt\.|\.set\(", block.source)]


@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_a_tutorial_is_one_sitting_with_three_exercises_and_links_on(path):
    text = path.read_text()
    assert f"(solutions/{path.name})" in text and "## Exercises" in text
    assert "def check_" in text  # of the exercise in which code is written
    following = [other.name for other in TUTORIALS if other > path][:1]
    assert all(f"({name})" in text for name in following)


@pytest.mark.parametrize("path", [*TUTORIALS, *SOLUTIONS], ids=name_of)
def test_a_block_can_be_pasted_into_pythons_prompt(path):
    """The prompt takes lines until a statement is whole, and an empty line ends what is indented."""
    for block in blocks(path):
        statement = []
        for i, text in enumerate([*block.source.splitlines(), ""]):
            statement.append(text)
            try:
                whole = codeop.compile_command("\n".join(statement), symbol="single")
            except SyntaxError as error:
                pytest.fail(f"{path.name}:{block.line + i}: {error.msg}: {text}")
            statement = [] if whole else statement
        assert not any(statement), f"{path.name}:{block.line}: the block does not end: {statement}"


@pytest.mark.parametrize("path", [*TUTORIALS, *SOLUTIONS], ids=name_of)
def test_a_block_leaves_no_value_unprinted(path):
    """A notebook shows the last value of a cell, and Python's prompt any, in loops too; build.run looks at calls."""
    for block in blocks(path):
        for node in ast.parse(block.source).body:
            shown = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call)
            assert not shown, f"{path.name}:{block.line + node.lineno - 1}"


@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_a_notebook_is_what_its_markdown_makes(path):
    assert build.without_address(path.with_suffix(".ipynb").read_text()) == build.notebook(path.read_text())


@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_a_notebook_is_of_format_4_5_with_its_figures_inside(path):
    book = json.loads(path.with_suffix(".ipynb").read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    figures = 0
    for cell in book["cells"]:
        more = {"outputs", "execution_count"} if cell["cell_type"] == "code" else {"attachments"} & set(cell)
        assert set(cell) == {"cell_type", "metadata", "source", "id"} | more
        for output in cell.get("outputs", ()):
            if output["output_type"] == "display_data":
                assert base64.b64decode(output["data"]["image/png"])[:4] == b"\x89PNG"
                figures += 1
            else:
                assert output["output_type"] == "stream" and output["name"] == "stdout"
    named = build.FIGURE.findall(path.read_text())
    assert figures == len([name for name in named if re.match(r"figures/\d-", name)])
    assert "PROJECT = " in "".join(book["cells"][0]["source"])


def anchors(path):
    """Return what links can name in a page: its headings, in small letters, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_to_a_heading_find_it(path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", path.read_text()):
        if "://" not in target:
            assert anchor in anchors(path.parent / target if target else path), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_figures_are_small():
    for path in (ROOT / "tutorials" / "figures").iterdir():
        assert path.stat().st_size < 80_000, path.name


def first_cell(address, folder, path=""):
    """Run a notebook's first cell and the line `import koch`, in an empty folder; return the finished process.

    path: a folder of modules
    """
    text = build.notebook(TUTORIALS[0].read_text(), address)
    assert build.without_address(text) == build.notebook(TUTORIALS[0].read_text())
    source = "".join(json.loads(text)["cells"][0]["source"]) + "\nimport koch\n"
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture
def project(tmp_path):
    """A folder with a koch.py that says that it was imported, and nothing else."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "koch.py").write_text("print('fetched')\n")
    return folder


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_notebook_that_is_run_alone_clones_the_project_where_an_address_is_set(tmp_path, project):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    done = first_cell(str(project), tmp_path / "elsewhere")
    assert done.stdout == "fetched\n", done.stderr


def test_a_notebook_that_is_run_alone_asks_colab_for_the_zip_where_no_address_is_set(tmp_path, project):
    elsewhere, colab = tmp_path / "elsewhere", tmp_path / "modules" / "google" / "colab"
    elsewhere.mkdir()
    with zipfile.ZipFile(elsewhere / "koch-main.zip", "w") as archive:  # with a folder inside, as code hosts pack it
        archive.write(project / "koch.py", "koch-main/koch.py")
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("")
    (colab / "files.py").write_text("def upload():\n    return {'koch-main.zip': b''}\n")
    done = first_cell("", elsewhere, path=tmp_path / "modules")
    assert done.stdout == "Choose the zip of the project.\nfetched\n", done.stderr


def test_a_notebook_that_is_run_alone_elsewhere_says_in_one_line_what_to_do(tmp_path):
    done = first_cell("", tmp_path / "elsewhere")
    assert done.stderr == "koch.py is not here: start Jupyter in the project's folder or in its folder tutorials/\n"


def test_all_notebooks_have_one_address(tmp_path, monkeypatch):
    books = [path.with_suffix(".ipynb") for path in TUTORIALS]
    assert len({re.search(r'PROJECT = \\"(.*?)\\"', book.read_text())[1] for book in books}) == 1
    monkeypatch.setattr(build.common, "write_whole", lambda path, text: (tmp_path / path.name).write_bytes(text))
    build.write_notebooks("an/address")
    written = [(tmp_path / book.name).read_text() for book in books]
    assert all('PROJECT = \\"an/address\\"' in text for text in written)
    assert [build.without_address(text) for text in written] == [build.without_address(b.read_text()) for b in books]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
def test_a_picture_that_no_screen_can_show_goes_into_a_file_and_nothing_is_echoed(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "DISPLAY")}
    source = "from tutorials import show\nimport numpy as np\nshow.images(np.eye(9)[None], ['same'])\n"
    environment |= {"PYTHONPATH": str(ROOT), "WAYLAND_DISPLAY": "", "HOME": str(tmp_path)}  # for the prompt's history
    prompt = [sys.executable, "-i", "-q"]
    done = subprocess.run(prompt, input=source, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "" and "the picture is runs/picture-1.png" in done.stderr
    assert (tmp_path / "runs" / "picture-1.png").read_bytes()[:4] == b"\x89PNG"


# build.py -------------------------------------------------------------------------------------------------------------

PAGE = """# T

```python
print("a", 0.25)
```

```text
a 0.25
```

Between.

```python varies
print("took 3.1 s")
```

```text
took 2.9 s
```

```sh
not run
```
"""


def ran(text):
    """Return a page's blocks as stored and as run."""
    blocks, _ = build.split(text)
    return blocks, build.run(build.FOLDER / "9-t.md", blocks, {}, "9", {})


def renewed(text):
    """Return a page with the output of its blocks as run."""
    return build.join(ran(text)[1], build.split(text)[1])


def test_markdown_comes_back_as_it_was():
    assert build.join(*build.split(PAGE)) == PAGE


def test_output_is_renewed_and_the_rest_is_kept():
    assert renewed(PAGE.replace("a 0.25", "old")) == PAGE.replace("took 2.9 s", "took 3.1 s")


def test_output_that_was_missing_is_put_in_and_that_of_nothing_goes():
    assert renewed("```python\nprint(1)\n```\nend\n") == "```python\nprint(1)\n```\n\n```text\n1\n```\nend\n"
    assert renewed("```python\nx = 1\n```\n\n```text\n1\n```\nend\n") == "```python\nx = 1\n```\nend\n"


def test_blocks_share_their_names():
    assert "```text\n3\n```" in renewed("```python\nx = 3\n```\n\n```python\nprint(x)\n```\n")


def test_what_differs_is_said_with_its_line():
    assert build.differences(*ran(PAGE)) == []
    old, new = ran(PAGE.replace("a 0.25", "a 0.27"))
    assert build.differences(old, new) == ["line 4: the block prints 'a 0.25', stored is 'a 0.27'"]
    old, new = ran(PAGE.replace("took 2.9 s", "needed 2.9 s"))
    assert len(build.differences(old, new)) == 1


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("87 of 400", "87 of 400", True),
        ("87 of 400", "88 of 400", False),
        ("21.75 %", "21.76 %", True),
        ("21.75 %", "21.77 %", False),
        ("1.00e-05", "1.01e-05", True),
        ("1.00e-05", "1.00e-04", False),
        ("a   1.5", "a 1.5", True),
        ("1,234.5", "1,234.4", True),
        ("nan", "1.0", False),
        ("-0.1", "0.1", False),
        ("x 1.5", "y 1.5", False),
    ],
)
def test_numbers_with_decimals_may_differ_in_their_last_digit(one, other, same):
    assert build.alike(one, other) == same


def test_where_other_machines_have_other_numbers_words_are_compared():
    assert build.alike("12.5 s, nan", "3 s, 1", any_number=True)
    assert not build.alike("12.5 s", "12.5 ms", any_number=True)


@pytest.mark.parametrize(
    "text, said",
    [
        ("```python sometimes\nx = 1\n```\n", "sometimes"),
        ("```python\nimport matplotlib.pyplot as plt\nfigure = plt.figure()\n```\n", "drawn and not shown"),
        ("text\n\n```python\nfor x in (1,):\n    max(x, 2)\n```\n", "9-t.md:4: Python's prompt would print '2'"),
    ],
)
def test_what_cannot_be_built_is_said(text, said):
    with pytest.raises(UserError, match=said):
        ran(text)


def test_an_error_in_a_block_names_the_line_of_the_page():
    with pytest.raises(ZeroDivisionError) as error:
        ran("text\n\n```python\nx = 1\nx / 0\n```\n")
    assert error.traceback[-1].lineno + 1 == 5 and str(error.traceback[-1].path).endswith("9-t.md")


def test_an_unknown_number_is_one_line_and_status_2():
    done = subprocess.run([*BUILD, "12"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "there is no tutorial 12" in done.stderr


@pytest.mark.thorough
@pytest.mark.skipif(
    all(data_file("", name, download=False).is_file() for name in FILES),
    reason="for a machine without Omniglot",
)
def test_without_omniglot_nothing_is_written(tmp_path):
    before = {path: path.read_bytes() for path in (ROOT / "tutorials").glob("1-*")}
    environment = os.environ | {"https_proxy": "http://localhost:9", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([*BUILD, "1"], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 2 and "what the tutorials print is of Omniglot" in done.stderr
    assert {path: path.read_bytes() for path in (ROOT / "tutorials").glob("1-*")} == before
