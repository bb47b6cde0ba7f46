"""Give a submission a process of its own, with limits, and talk to it without trusting what it says.

    with Sandbox(folder) as sandbox:
        sandbox.hand(given)
        answer, seconds = sandbox.ask(question, arguments)

Isolation is the operating system's work. Where bubblewrap is installed and may make a user space of its own, the
process sees Python, NumPy, Numba, its own folder and what is given, all read-only, and nothing else: no home folder, no
other submission; it has no network, sees no other process, and dies with its parent. Elsewhere it may do what you may
do; level() says which of the two. Either way memory, files and time have limits, and what it prints is lost. Questions
and answers are JSON through two pipes (inside.py): what comes back can be wrong, and can do nothing else. What may be
imported is looked up in the text before (refuse): that isolates nothing, and says what is one's own work.
"""

import ast
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tutorials.assignment.inside import pack_question, unpack
from tutorials.assignment.starter import given
from tutorials.assignment.tasks import TASKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REFERENCE = ROOT / "reference_numpy"
USERS = itertools.count()
TEMPORARY = 64 << 20  # bytes of /tmp under bubblewrap, which is memory
MEMORY = 4 << 30  # bytes of all processes of a submission together
LARGEST_ANSWER = 256 << 20  # bytes
LARGEST_FILE = 1_000_000  # bytes of Python that are looked at
LEVELS = {
    "bubblewrap": "each in bubblewrap",
    "missing": "each a plain process, since bubblewrap is not installed",
    "forbidden": "each a plain process, since bubblewrap cannot make a user space here",
}
PERMITTED = set(
    "numpy numba given __future__ abc array bisect cmath collections contextlib copy dataclasses decimal doctest enum "
    "fractions functools heapq itertools math numbers operator pprint random statistics string textwrap time timeit "
    "typing unittest warnings".split()
)


class Failure(Exception):
    """Say in plain words why there is no answer.

    kind: "not written", "cannot be imported", "wrong" or "too slow"
    lost: the process is gone, or cannot be trusted to go on
    """

    def __init__(self, text, kind="wrong", lost=False):
        super().__init__(text)
        self.kind, self.lost = kind, lost


def one_line(text):
    """Return at most 300 characters of a text that a submission may have written, with nothing for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text)[:300].split()))


# What a submission may import -----------------------------------------------------------------------------------------


def refuse(folder):
    """Replace each file of a submission that has a syntax error or an import that is not permitted.

    What stands in its place raises an ImportError that says so, for whoever imports it. folder: a copy of a submission
    """
    paths = sorted(path for path in folder.rglob("*.py") if path.is_file())
    own = {part.split(".")[0] for path in paths for part in path.relative_to(folder).parts}
    allowed = (PERMITTED | own) - {"reference_numpy", "koch", "tutorials"}
    for path in paths:
        where = path.relative_to(folder)
        try:
            imports = list(imported(ast.parse(path.read_bytes()[:LARGEST_FILE])))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = f"{where}, line {getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}"
        else:
            refused = [(name, line) for name, line in imports if name and name not in allowed]
            if not refused:
                continue
            name, line = refused[0]
            why = f"{where}, line {line}, imports {name}, which is not on the list of what may be imported"
        path.write_text(f"raise ImportError({one_line(why)!r})\n")


def imported(tree):
    """Yield the first name and the line of each import; "" for one that begins with a dot.

    What stands below if __name__ == "__main__" does not run here, and may import what it likes.
    """
    runs = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
    for node in ast.walk(ast.Module(runs, type_ignores=[])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else node.module.split(".")[0], node.lineno


# What is given to a submission ----------------------------------------------------------------------------------------

STAGES = {  # of marking: modules that run, and those of reference_numpy that they are given with all answers
    "layers": (("layers", "convolution", "learning", "data", "variants"), ()),
    "network": (("network",), ("products", "convolution", "layers")),
    "pairs": (("pairs",), ("products", "convolution", "layers", "learning", "network")),
}
ANSWERS = {name for task in TASKS for name in task.functions}
ANSWERS |= {"softmax_cross_entropy_forward", "softmax_cross_entropy_backward"}  # which show how bce_with_logits is done
GIVEN = set(vars(given)) - ANSWERS | {"moments", "normalise", "denormalise"}  # the loops of batch normalisation


def hand_out(folder):
    """Write a folder for each stage: inside.py, given.py and what that imports of reference_numpy, and no more."""
    for stage, (_, answered) in STAGES.items():
        package = folder / stage / "reference_numpy"
        package.mkdir(parents=True)
        shutil.copy(HERE / "inside.py", package.parent)
        shutil.copy(HERE / "starter" / "given.py", package.parent)
        for module in ("jit", "data", "products", "convolution", "layers", "learning", "network", "pairs"):
            path = REFERENCE / f"{module}.py"
            if module in answered:
                shutil.copy2(path, package)  # with its time: by that Numba knows if its machine code is up to date
            else:
                (package / path.name).write_text(without_answers(path))
        if answered and (REFERENCE / "__pycache__").is_dir():  # with Numba's machine code, if there is any yet
            shutil.copytree(REFERENCE / "__pycache__", package / "__pycache__", ignore=shutil.ignore_patterns("*.pyc"))


def without_answers(path):
    """Return the text of a module in which all functions but those in GIVEN raise an error where they are called."""
    tree = ast.parse(path.read_bytes())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in GIVEN:
            why = f"{node.name} of given.py is the answer to a task, here it is for you to write"
            node.decorator_list, node.body = [], ast.parse(f"raise NotImplementedError({why!r})").body
    return ast.unparse(tree)


# Isolation ------------------------------------------------------------------------------------------------------------


def wrapped(folder, given, torch=False):
    """Return bubblewrap's command line up to the program that it runs.

    folder: a submission, whose place is /tmp/submission; given: what is at /tmp/given
    torch: all installed packages are there, and koch.py, else NumPy and Numba alone
    """
    command = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(TEMPORARY), "--tmpfs", "/tmp"]
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, "/usr"))
    ours = (ROOT / "koch.py", REFERENCE) if torch else ()
    for path in ("/bin", "/lib", "/lib64", "/etc/ld.so.cache", *prefixes, *ours):
        command += bound(path)
    empty = ["/"]
    if not torch:
        for prefix in (*prefixes, "/usr/local"):
            empty += map(str, Path(prefix).glob("lib*/python3*/*-packages"))
        for packages in empty[1:]:
            command += ["--tmpfs", packages]
        for package in (Path(importlib.util.find_spec(name).origin).parent for name in ("numpy", "numba", "llvmlite")):
            command += [*bound(package), *bound(package.with_name(f"{package.name}.libs"))]
    command += ["--ro-bind", str(folder), "/tmp/submission", "--ro-bind", str(given), "/tmp/given"]
    for place in ("/dev", *empty):
        command += ["--remount-ro", place]
    command += ["--chdir", "/tmp/submission"]
    nest = ["--unshare-user", "--cap-drop", "ALL", *no_user_spaces()]
    if os.getuid():
        return command + nest
    # As root: no limit holds for root, by whatever number it goes inside. So it becomes somebody else first.
    nobody = str(60_000 + next(USERS) % 4000)
    command += ["setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups", "--bounding-set=-all"]
    return [*command, "bwrap", "--dev-bind", "/", "/", *nest]


def bound(path):
    """Return bubblewrap's options that make a path readable, if it is there, and the folders that it is in."""
    options = []
    for parent in list(reversed(Path(path).parents))[1:]:
        options += ["--perms", "0755", "--dir", str(parent)]
    return [*options, "--ro-bind-try", str(path), str(path)]


@functools.cache
def no_user_spaces():
    """Return the option by which nothing inside can make a user space again, and be root in it; [] in old versions."""
    said = subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout
    return ["--disable-userns"] if "--disable-userns" in said else []


@functools.cache
def level():
    """Return which of LEVELS there is."""
    if not shutil.which("bwrap"):
        return "missing"
    program = [sys.executable, "-I", "-c", "import numba"]
    works = subprocess.run([*wrapped("/usr", "/usr"), *program], capture_output=True).returncode == 0
    return "bubblewrap" if works else "forbidden"


def memory(pid):
    """Return the bytes of memory that a process and all that it has started take, 0 where the system does not say."""
    total, waiting = 0, [str(pid)]
    while waiting:
        process = Path("/proc", waiting.pop())
        with contextlib.suppress(OSError, IndexError):  # it has ended in the meantime
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in (process / "task").iterdir():
                waiting += (thread / "children").read_text().split()
    return total


def kill(process):
    """Kill a process's group; under bubblewrap all that has been started in it goes with its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Sandbox(contextlib.AbstractContextManager):
    """Hold the process that runs one submission.

    folder: a copy of it; seconds: for an answer; at_all: for all together
    torch: it is a net, and may import torch and koch
    """

    def __init__(self, folder, seconds=10, at_all=120, torch=False):
        self.folder, self.torch, self.seconds, self.left = Path(folder).resolve(), torch, seconds, at_all
        self.given = self.process = None

    def __exit__(self, *_):
        self.end()

    def hand(self, given):
        """Give the submission a stage's folder of hand_out from its next question on."""
        self.end()
        self.given = given

    def start(self):
        """Start the process and wait until it is ready."""
        isolated = level() == "bubblewrap"
        wrapper = wrapped(self.folder, self.given, self.torch) if isolated else []
        places = ("/tmp/submission", "/tmp/given", "/tmp") if isolated else (self.folder, self.given, self.folder)
        folder, given, writable = map(str, places)
        about = {"folder": folder, "given": given, "root": str(ROOT), "processes": isolated, "torch": self.torch}
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        program = [sys.executable, "-I", "-B", f"{given}/inside.py", str(theirs_in), str(theirs_out), json.dumps(about)]
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        kept |= {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        kept |= {"NUMBA_OPT": "1"}  # as fast for plain loops, and compiled in two thirds of the time
        self.process = subprocess.Popen(
            [*wrapper, *program], cwd=self.folder, env=kept | {"HOME": writable, "TMPDIR": writable},
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in), os.close(theirs_out)
        self.to, self.back = Connection(ours_out, readable=False), Connection(ours_in, writable=False)
        self.talk(b"", 60)

    def end(self):
        """End the process and whatever it started."""
        if self.process:
            kill(self.process)
            self.process.wait()
            self.to.close(), self.back.close()
            self.process = None

    def talk(self, message, seconds):
        """Send a message, if it is not empty, and return what comes back, unpacked.

        Raises Failure when the process takes longer, to read or to answer, when it dies, or sends something else.
        """
        done, why = threading.Event(), []
        threading.Thread(target=self.watch, args=(self.process, seconds, done, why)).start()
        try:
            if message:
                self.to.send_bytes(message)
            answer = self.back.recv_bytes(LARGEST_ANSWER)
        except (EOFError, OSError):
            status = self.process.wait()
            raise Failure(*(why or [f"it ended the interpreter ({status})"]), lost=True) from None
        finally:
            done.set()
        try:
            return unpack(answer)
        except Exception as error:  # bytes that are no message
            raise Failure(f"what came back cannot be read ({type(error).__name__})", lost=True) from None

    def watch(self, process, seconds, done, why):
        """Kill a process when its time is up or its memory too large, unless done is set; why: gets the reason."""
        most, end = MEMORY * (8 if self.torch else 1), time.monotonic() + seconds
        while not done.wait(0.05):
            if time.monotonic() >= end:
                why[:] = f"it took more than {seconds:.0f} s", "too slow"
            elif memory(process.pid) > most:
                why[:] = [f"it took more than {most >> 30} GB of memory"]
            if why:
                kill(process)
                break

    def ask(self, question, arguments):
        """Put a question; return the answer and the seconds it took. Raises Failure."""
        if self.left <= 0:
            raise Failure("its time is up: earlier tasks have used it", "too slow", lost=True)
        if not self.process:
            self.start()
        message = pack_question(question, arguments)
        started = time.perf_counter()
        try:
            answer = self.talk(message, min(self.seconds, max(1, self.left)))
        except Failure:
            self.end()
            raise
        finally:
            seconds = time.perf_counter() - started
            self.left -= seconds
        if not isinstance(answer, dict) or set(answer) not in ({"answer"}, {"error", "kind"}):
            self.end()
            raise Failure("what came back is no answer", lost=True)
        if "error" in answer:
            raise Failure(one_line(answer["error"]), "not written" if answer["kind"] == "not written" else "wrong")
        return answer["answer"], seconds

    def load(self, module):
        """Import a module of the submission. Returns None, or the Failure."""
        if not (self.folder / f"{module}.py").is_file():
            return Failure(f"there is no {module}.py", "not written")
        try:
            self.ask("load", (module,))
        except Failure as failure:
            kind = "too slow" if self.left <= 0 else "cannot be imported"
            return Failure(str(failure).removeprefix("it raised ImportError: "), kind)
        return None
