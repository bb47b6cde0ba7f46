"""Run a submission's code in a process of its own, with limits, and talk to it without trusting what it says.

    with Sandbox(folder, hidden) as sandbox:
        answer, seconds = sandbox.ask(case)

The process works in a copy of the submission's folder. It may write nowhere else, open no connection, start no other
process and load no torch; it may not read what is hidden (other submissions). Its memory and its time have limits. What
it prints is lost. Questions and answers are arrays and JSON through two pipes, and no pickle: what comes back can be
wrong, and can do nothing else. A submission that hangs or dies is ended, and started anew for the next task.

This is as far as the standard library goes: Python's audit hooks and Unix's resource limits. They stop accidents and
pranks; machine code written to break out is another matter, for which there are containers.
"""

import contextlib
import importlib
import io
import json
import os
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
MEMORY, LARGEST_FILE = 4 << 30, 64 << 20  # bytes of address space, which the compiler needs; bytes of a file
LARGEST_ANSWER = 256 << 20  # bytes
REFUSED = ("socket.", "subprocess.", "os.fork", "os.exec", "os.system", "os.spawn", "os.posix_spawn", "os.kill",
           "pty.", "ctypes.dlopen", "ctypes.dlsym", "signal.pthread_kill", "syslog.", "os.setxattr")  # fmt: skip
PATHS = {  # audit event: which of its arguments are paths that it would change
    "os.chmod": (0,), "os.chown": (0,), "os.link": (0, 1), "os.mkdir": (0,), "os.remove": (0,), "os.removexattr": (0,),
    "os.rename": (0, 1), "os.rmdir": (0,), "os.symlink": (1,), "os.truncate": (0,), "os.utime": (0,),
    "shutil.rmtree": (0,), "sqlite3.connect": (0,),
}  # fmt: skip


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


class Sandbox:
    """Hold the process that runs one submission.

    folder: the copy it works in and may write to; hidden: folders it may not read, its own apart
    seconds: for an answer; at_all: for all answers together
    own_work: the reference's functions are no answer; torch: it is a net, may import torch, and score.py asks
    """

    def __init__(self, folder, hidden=(), seconds=10, at_all=120, own_work=True, torch=False):
        self.about = {"folder": str(folder), "hidden": [str(path) for path in hidden]}
        self.about |= {"own_work": own_work, "torch": torch}
        self.folder, self.seconds, self.left, self.process = Path(folder), seconds, at_all, None
        self.imported = {}  # modules that were imported once: "", or why they cannot be

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def start(self):
        """Start the process and wait until it is ready."""
        self.end()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = [sys.executable, "-I", "-B", __file__, str(theirs_in), str(theirs_out), json.dumps(self.about)]
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
        threads = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        own = {"HOME": str(self.folder), "TMPDIR": str(self.folder), "NUMBA_WARNINGS": "0"}
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=kept | threads | own, pass_fds=(theirs_in, theirs_out),
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
            raise Failure(str(answer["error"])[:300])
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


def limit(about):
    """Let this process write into its folder alone, and do nothing that reaches out of it; for good."""
    import resource

    folder, torch = os.path.realpath(about["folder"]), about["torch"]
    hidden = tuple(os.path.realpath(path) + os.sep for path in about["hidden"])
    forbidden = () if torch else ("torch", "koch")
    real, fspath, separator, writes = os.path.realpath, os.fspath, os.sep, os.O_WRONLY | os.O_RDWR | os.O_CREAT
    refused, paths, inside, is_folder = REFUSED, PATHS, folder + os.sep, os.path.isdir

    def within(path):
        return not isinstance(path, int) and (real(os.fsdecode(fspath(path))) + separator).startswith(inside)

    def watch(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int):
                return
            writing = flags & writes if flags is not None else set(mode or "r") & set("wax+")
            if writing and not within(path) and path != os.devnull:
                raise PermissionError(f"a submission may not write {path}")
            place = real(os.fsdecode(fspath(path))) + separator
            if not within(path) and (place.startswith(hidden) or is_folder(place)):  # a folder's number leads past this
                raise PermissionError(f"a submission may not read {path}")
        elif event in ("os.listdir", "os.scandir"):
            path = arguments[0] or "."
            if not within(path) and (isinstance(path, int) or (real(path) + separator).startswith(hidden)):
                raise PermissionError("a submission may not look there")
        elif event in paths:
            if not all(within(arguments[i]) for i in paths[event]):
                raise PermissionError(f"a submission may not change {arguments[0]}")
        elif event == "import" and arguments[0].partition(".")[0] in forbidden:
            raise ImportError(f"{arguments[0]} may not be imported in this assignment")
        elif event.startswith(refused):
            raise PermissionError(f"a submission may not use {event}")

    def no(*_, **__):
        raise PermissionError("a submission may not use this function")

    import _posixsubprocess  # it and two functions of os are not audited
    import posix

    for module, name in ((posix, "mkfifo"), (posix, "mknod"), (os, "mkfifo"), (os, "mknod"), (subprocess, "_fork_exec"),
                         (_posixsubprocess, "fork_exec")):  # fmt: skip
        setattr(module, name, no)
    for what, most in (("AS", 8 * MEMORY if torch else MEMORY), ("FSIZE", LARGEST_FILE), ("CORE", 0), ("CPU", 600)):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (most, most))
    sys.addaudithook(watch)


def serve(read, write, about):
    """Answer questions until there are no more; the submission's own code runs here."""
    questions, answers = Connection(int(read), writable=False), Connection(int(write), readable=False)
    about = json.loads(about)
    import numba

    from reference_numpy import compare, pairs  # noqa: F401  what a submission may import, with its compiled loops
    from tutorials.assignment import tasks

    tasks.add_tiny_net()
    numba.set_num_threads(1)
    warm()
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
    limit(about)
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


def warm():
    """Let Numba load what it needs to compile and to run threads, before loading more is refused."""
    import numba

    @numba.njit(parallel=True)
    def total(x):
        out = np.zeros(len(x))
        for i in numba.prange(len(x)):
            out[i] = x[i] + np.sqrt(x[i])
        return out

    total(np.ones(4))


if __name__ == "__main__":
    serve(*sys.argv[1:])
