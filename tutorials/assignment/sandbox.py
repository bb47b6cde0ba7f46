"""Run a submission's code in a process of its own, with limits, and talk to it without trusting what it says.

    with Sandbox(folder, hidden) as sandbox:
        answer, seconds = sandbox.ask(case)

Isolation is the operating system's work. Where bubblewrap is installed and may make a user space of its own, the
process sees a read-only machine without home folders, /tmp and what is hidden (other submissions), has no network, sees
no other process, and dies with its parent. Elsewhere it may do what you may do; level() says which of the two. Either
way memory, files and time have limits, and what it prints is lost. Questions and answers are arrays and JSON through
two pipes, and no pickle: what comes back can be wrong, and can do nothing else. A submission that hangs or dies is
ended, and started anew for the next task.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

import numpy as np  # noqa: E402

from reference_numpy.data import Drawings, Trials, UserError  # noqa: E402
from tutorials.assignment.tasks import Case, Seed  # noqa: E402

RECORDS = {record.__name__: record for record in (Drawings, Trials, Seed)}  # what a question may hold beside arrays
KEPT = ROOT / "reference_numpy" / "__pycache__"  # with the machine code of the reference's loops
LIMITS = {"AS": 4 << 30, "FSIZE": 64 << 20, "CORE": 0, "CPU": 600, "NOFILE": 128}  # bytes, seconds, files
LARGEST_ANSWER = 256 << 20  # bytes
TEMPORARY = 256 << 20  # bytes of /tmp under bubblewrap, which is memory
NAMES = {"bubblewrap": "each in bubblewrap", "process": "each a plain process; install bubblewrap to isolate it"}


def wrapped(folder, hidden):
    """Return bubblewrap's command line up to the program that it runs; the folder's place in it is /tmp/submission."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/", "/"]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", str(TEMPORARY), "--tmpfs", "/tmp"]
    for place in filter(os.path.isdir, ("/home", "/root", "/run", "/var/tmp", *map(os.path.realpath, hidden))):
        command += [] if Path(place).is_relative_to("/tmp") else ["--tmpfs", place]
    own = (f"tutorials/assignment/{name}.py" for name in ("sandbox", "tasks", "nets"))  # and nothing beside them
    needed = sys.prefix, sys.base_prefix, *(ROOT / name for name in ("koch.py", "reference_numpy", *own))
    for path in map(str, needed):  # they may lie in what was just hidden
        command += ["--ro-bind", path, path]
    if KEPT.is_dir():  # which Numba uses where it may write beside it: serve copies it back
        command += ["--ro-bind", str(KEPT), "/tmp/kept", "--size", str(TEMPORARY), "--tmpfs", str(KEPT)]
    return [*command, "--ro-bind", str(folder), "/tmp/submission", "--chdir", "/tmp/submission"]


@functools.cache
def level():
    """Return "bubblewrap" where it works, else "process"."""
    works = shutil.which("bwrap") and not subprocess.run([*wrapped("/", []), "true"], capture_output=True).returncode
    return "bubblewrap" if works else "process"


class Failure(Exception):
    """Say in plain words why there is no answer. lost: the process is gone, or cannot be trusted to go on."""

    def __init__(self, text, lost=False):
        super().__init__(text)
        self.lost = lost


# Messages -------------------------------------------------------------------------------------------------------------


def pack(thing):
    """Turn nested tuples, lists, dicts, arrays, numbers and the RECORDS into bytes. Raises TypeError for all else."""
    arrays = {}

    def plain(part):
        if isinstance(part, (np.ndarray, np.generic)):
            if part.dtype.kind not in "biuf":
                raise TypeError(f"an array of {part.dtype}")
            arrays[f"a{len(arrays)}"] = np.asarray(part)
            return {"array": f"a{len(arrays) - 1}"}
        if type(part).__name__ in RECORDS:
            return {"record": type(part).__name__, "parts": [plain(p) for p in part]}
        if isinstance(part, (tuple, list)):
            return {"tuple": [plain(p) for p in part]}
        if isinstance(part, dict):
            return {"dict": [[str(key), plain(value)] for key, value in part.items()]}
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        raise TypeError(f"a {type(part).__name__}")

    tree, buffer = json.dumps(plain(thing)), io.BytesIO()
    np.savez(buffer, tree=np.frombuffer(tree.encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpack(message):
    """Return what was packed. Raises ValueError, or another error, for bytes that are no message."""
    with zipfile.ZipFile(io.BytesIO(message)) as archive:
        if sum(part.file_size for part in archive.infolist()) > LARGEST_ANSWER:
            raise ValueError("it would unpack to more than an answer may have")
    with np.load(io.BytesIO(message), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}

    def whole(part):
        if not isinstance(part, dict):
            return part
        if "array" in part:
            return arrays[part["array"]]
        if "record" in part:
            return RECORDS[part["record"]](*map(whole, part["parts"]))
        return tuple(map(whole, part["tuple"])) if "tuple" in part else {key: whole(v) for key, v in part["dict"]}

    return whole(json.loads(arrays["tree"].tobytes()))


# The side of the marker -----------------------------------------------------------------------------------------------


class Sandbox(contextlib.AbstractContextManager):
    """Hold the process that runs one submission.

    folder: the copy it works in; hidden: folders it may not read; seconds: for an answer; at_all: for all together
    own_work: the reference's functions are no answer, and it is isolated; torch: it is a net, may import torch, and
        score.py asks
    """

    def __init__(self, folder, hidden=(), seconds=10, at_all=120, own_work=True, torch=False):
        self.folder, self.seconds, self.left, self.process = Path(folder).resolve(), seconds, at_all, None
        self.wrapper, inside = [], str(self.folder)
        if own_work and level() == "bubblewrap":
            self.wrapper, inside = wrapped(self.folder, hidden), "/tmp/submission"
        self.about = {"folder": inside, "own_work": own_work, "torch": torch}
        self.imported = {}  # modules that were imported once: "", or why they cannot be

    def __exit__(self, *_):
        self.end()

    def start(self):
        """Start the process and wait until it is ready."""
        self.end()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        program = [sys.executable, "-I", "-B", __file__, str(theirs_in), str(theirs_out), json.dumps(self.about)]
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
        threads = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        writable = "/tmp" if self.wrapper else str(self.folder)
        own = {"HOME": writable, "TMPDIR": writable, "NUMBA_WARNINGS": "0"}
        self.process = subprocess.Popen(
            [*self.wrapper, *program], cwd=self.folder, env=kept | threads | own, pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in), os.close(theirs_out)
        self.to, self.back = Connection(ours_out, readable=False), Connection(ours_in, writable=False)
        self.talk(b"", 60)

    def end(self):
        """End the process and whatever it started."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.to.close(), self.back.close()
            self.process = None

    def talk(self, message, seconds):
        """Send a message, if it is not empty, and return what comes back, unpacked.

        Raises Failure when the process takes longer, to read or to answer, when it dies, or sends something else.
        """
        ended = threading.Event()

        def stop():
            ended.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

        watch = threading.Timer(seconds, stop)
        watch.start()
        try:
            if message:
                self.to.send_bytes(message)
            answer = self.back.recv_bytes(LARGEST_ANSWER)
        except (EOFError, OSError):
            status = self.process.wait()
            why = f"it took more than {seconds:.0f} s" if ended.is_set() else f"it ended the interpreter ({status})"
            raise Failure(why, lost=True) from None
        finally:
            watch.cancel()
        try:
            return unpack(answer)
        except Exception as error:  # bytes that are no message
            raise Failure(f"what came back cannot be read ({type(error).__name__})", lost=True) from None

    def ask(self, case):
        """Put a case's question; return the answer and the seconds it took. Raises Failure.

        A module that hangs or dies when it is imported is imported once, not for every question.
        """
        module = case.module
        if module and module not in self.imported:
            self.imported[module] = ""
            try:
                self.exchange("import", (module,))
            except Failure as failure:
                self.imported[module] = f"{module}.py cannot be imported: {failure}" if failure.lost else ""
        if self.imported.get(module):
            raise Failure(self.imported[module])
        return self.exchange(case.question, case.arguments)

    def exchange(self, question, arguments):
        """Send a question and return the answer and the seconds it took. Raises Failure."""
        if self.left <= 0:
            raise Failure("its time is up: earlier tasks have used it", lost=True)
        if not self.process:
            self.start()
        message = pack({"question": question, "arguments": arguments})
        started = time.perf_counter()
        try:
            answer = self.talk(message, min(self.seconds, max(1, self.left)))
        except Failure:
            self.end()
            raise
        finally:
            seconds = time.perf_counter() - started
            self.left -= seconds
        if not isinstance(answer, dict) or set(answer) not in ({"answer"}, {"error"}):
            self.end()
            raise Failure("what came back is no answer", lost=True)
        if "error" in answer:
            said = str(answer["error"])[:300]
            raise Failure("".join(letter if letter.isprintable() else "?" for letter in said))  # nothing for a terminal
        return answer["answer"], seconds


# The side of the submission -------------------------------------------------------------------------------------------


class Submission:
    """Find the functions of a submission's modules; a module is loaded when it is first asked for."""

    def __init__(self, folder, own_work=True):
        self.folder, self.own_work, self.broken = Path(folder), own_work, {}

    def load(self, module):
        """Import a module, the first time it is asked for. Raises Failure."""
        if module in self.broken:
            raise self.broken[module]
        if not (self.folder / f"{module}.py").is_file():
            raise Failure(f"there is no {module}.py")
        try:
            importlib.import_module(module)
        except BaseException as error:
            self.broken[module] = Failure(f"{module}.py cannot be imported: {in_words(error)}")
            raise self.broken[module] from None

    def __call__(self, name):
        module, function = name.split(".")
        self.load(module)
        found = getattr(sys.modules[module], function, None)
        if not callable(found):
            raise Failure(f"{module}.py has no function {function}")
        if self.own_work and str(getattr(found, "__module__", "")).startswith("reference_numpy"):
            raise Failure(f"{function} is the reference's own function; write yours")
        return found


def in_words(error):
    """Say an exception of a submission in one line."""
    if isinstance(error, (Failure, UserError)):
        return str(error)
    if isinstance(error, NotImplementedError):
        return f"not written yet: {error}"
    if isinstance(error, SystemExit):
        return "it called sys.exit"
    if isinstance(error, MemoryError):
        return "it asked for more memory than there is"
    lines = str(error).strip().splitlines()
    return f"it raised {type(error).__name__}" + (f": {lines[0][:200]}" if lines else "")


def limit(torch):
    """Limit this process's memory, files and time for good; a net of torch may have eight times the memory."""
    import resource

    for name, most in LIMITS.items():
        most *= 8 if torch and name == "AS" else 1
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    for module in () if torch else ("torch", "koch"):
        sys.modules[module] = None  # an import of it is an ImportError


def serve(read, write, about):
    """Answer questions until there are no more; the submission's own code runs here."""
    questions, answers = Connection(int(read), writable=False), Connection(int(write), readable=False)
    about = json.loads(about)
    if os.path.isdir("/tmp/kept"):
        shutil.copytree("/tmp/kept", KEPT, dirs_exist_ok=True)
    import numba

    from reference_numpy import compare, pairs  # noqa: F401  what a submission may import, with its compiled loops
    from tutorials.assignment import tasks

    tasks.add_tiny_net()
    numba.set_num_threads(1)
    if about["torch"]:
        from tutorials.assignment import nets

        handle = nets.answer
    else:

        def handle(find, question):
            if question["question"] == "import":
                return find.load(*question["arguments"])
            return tasks.ask(find, Case("", "", question["question"], question["arguments"]))

    sys.path[:] = [about["folder"], *sys.path]
    sys.setrecursionlimit(2000)
    find = Submission(about["folder"], about["own_work"])
    limit(about["torch"])
    answers.send_bytes(pack("ready"))
    while True:
        try:
            question = unpack(questions.recv_bytes())
        except EOFError:
            return
        try:
            answer = pack({"answer": handle(find, question)})
        except BaseException as error:  # whatever a submission raises, SystemExit too
            answer = pack({"error": in_words(error)})
        answers.send_bytes(answer)


if __name__ == "__main__":
    serve(*sys.argv[1:])
