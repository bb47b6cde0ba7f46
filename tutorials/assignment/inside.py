"""Run a submission's code and answer the marker's questions: this is what runs in the sandbox, beside the submission.

    python inside.py READ WRITE ABOUT     the pipes' numbers, and in JSON what Sandbox says of the submission

Nothing here is trusted by the marker, since the submission may change it. It imports nothing of the project but
given.py (sandbox.py), so that no answer of the reference's is where the submission is.
"""

import base64
import contextlib
import copy
import importlib
import json
import shutil
import sys
import tempfile
import threading
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

NUMBERS = "biuf"  # the kinds of arrays that are sent: bool, integers, floats
LIMITS = {"AS": 2 << 30, "FSIZE": 8 << 20, "CORE": 0, "CPU": 600, "NOFILE": 32}  # bytes, seconds, files
PROCESSES = 12  # and threads, of a submission under bubblewrap: Numba has two


class Missing(Exception):
    """Say that a submission does not have what is asked for."""


class Seed(NamedTuple):
    """Stand for np.random.default_rng(seed), made anew for whoever answers."""

    seed: int


RECORDS = {"Seed": Seed}  # and where a submission runs Drawings and Trials of given.py


# Messages -------------------------------------------------------------------------------------------------------------


def pack(thing):
    """Turn nested tuples, lists, dicts, arrays and numbers into bytes, which are JSON. Raises TypeError for all else."""
    return json.dumps(thing, default=as_dict).encode()


def pack_question(question, arguments):
    """Turn a question into bytes; an argument may be a Seed, Drawings or Trials."""
    plain = [{"record": type(a).__name__, "parts": a} if hasattr(a, "_fields") else a for a in arguments]
    return pack((question, plain))


def unpack(message):
    """Return what was packed, tuples as lists. Raises ValueError, or another error, for bytes that are no message."""
    return json.loads(message, object_hook=from_dict)


def as_dict(thing):
    """Return what stands for an array in JSON."""
    if isinstance(thing, (np.ndarray, np.generic)) and thing.dtype.kind in NUMBERS:
        return {"dtype": thing.dtype.str, "shape": thing.shape, "bytes": base64.b64encode(thing.tobytes()).decode()}
    raise TypeError(f"a {type(thing).__name__} cannot be sent")


def from_dict(thing):
    """Return the array or the record that a dict stands for, another dict as it is."""
    if "record" in thing:
        return RECORDS[thing["record"]](*thing["parts"])
    if "dtype" not in thing:
        return thing
    if np.dtype(thing["dtype"]).kind not in NUMBERS:
        raise ValueError(f"an array of {thing['dtype']}")
    return np.frombuffer(base64.b64decode(thing["bytes"]), thing["dtype"]).reshape(thing["shape"]).copy()


# Questions: find(name "module.function") -> the function --------------------------------------------------------------


def call(find, name, *arguments):
    """Return what a function returns."""
    return find(name)(*arguments)


def load(find, module):
    """Import a module of a submission."""
    find.load(module)


def forwards(find, layer, *arguments):
    """Return a layer's out, a tuple of one."""
    return find(f"{layer}_forward")(*arguments)[:1]


def both_ways(find, layer, dout, *arguments):
    """Return a layer's out and its gradients, a tuple; an overflow or an invalid operation on the way is an error."""
    with np.errstate(over="raise", invalid="raise"):
        out, cache = find(f"{layer}_forward")(*arguments)
        gradients = find(f"{layer}_backward")(dout, cache)
    return out, *as_tuple(gradients)


def backwards(find, layer, dout, *arguments):
    """Return a layer's gradients, a tuple."""
    return both_ways(find, layer, dout, *arguments)[1:]


def twice(find, layer, dout1, arguments1, dout2, arguments2):
    """Return the gradients of two calls, a tuple each, both forwards before both backwards: as the twins do."""
    forward, backward = find(f"{layer}_forward"), find(f"{layer}_backward")
    cache1, cache2 = forward(*arguments1)[1], forward(*arguments2)[1]
    return as_tuple(backward(dout1, cache1)), as_tuple(backward(dout2, cache2))


def as_tuple(gradients):
    """Return the gradients of a backward pass as a tuple, where it may be one array alone."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def left_alone(find, layer, dout, *arguments):
    """Return a layer's inputs and dout as they are after it ran both ways, and then its out."""
    out, cache = find(f"{layer}_forward")(*arguments)
    out = np.array(out)
    find(f"{layer}_backward")(dout, cache)
    return *(a for a in (dout, *arguments) if isinstance(a, np.ndarray)), out


def threads(find, name, *arguments):
    """Return what a compiled function gives on one thread, if it gives the same on two, 20 times."""
    import numba

    function, most = find(name), numba.get_num_threads()
    numba.set_num_threads(1)
    one = function(*copy.deepcopy(arguments))
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    equal = all(np.array_equal(one, function(*copy.deepcopy(arguments))) for _ in range(20))
    numba.set_num_threads(most)
    return one if equal else "something else on two threads"


def steps(find, parameters, gradients, *settings):
    """Return parameters and velocity after a step of sgd for each of the settings."""
    velocity = {}
    for setting in settings:
        parameters, velocity = find("learning.sgd")(parameters, gradients, velocity, *setting)
    return parameters, velocity


def answers(find, scorer, trials):
    """Return the answers to one-shot trials by a scorer that is not a net."""

    def features(images):
        return images.reshape(len(images), -1) / 1.0

    def logit(h1, h2):
        logits = (h1 * h2).sum(1) if scorer == "pixels" else np.zeros(len(h1))
        return np.where(np.arange(len(h1)) == 1, np.nan, logits) if scorer == "nan" else logits

    return find("data.one_shot_answers")(features, logit, trials)


# Two questions of own nets (score.py), which may import torch and koch:


def load_net(find, name):
    """Make the net that "module:Class" or a checkpoint's name says, keep it, and return its number of parameters."""
    import torch

    import koch

    if ":" in name:
        net = find(name.replace(":", "."))()
    elif (find.folder / name).is_file():
        net = koch.load_checkpoint(find.folder / name)
    else:
        raise Missing(f"there is no {name}")
    if missing := [needed for needed in ("size", "features", "logit") if not hasattr(net, needed)]:
        raise Missing(f"{name} has no {missing[0]}; a net has size, features(images) and logit(h1, h2)")
    is_module = isinstance(net, torch.nn.Module)
    find.net = net.eval() if is_module else net
    return sum(p.numel() for p in net.parameters()) if is_module else 0


def net_answers(find, images, test, support):
    """Return the answers of the net that was loaded to one-shot trials: (n_trials,), -1 for no clear one."""
    import torch

    import koch
    from reference_numpy.data import Trials, one_shot_answers

    def features(drawings):
        return koch.image_features(find.net, torch.as_tensor(drawings)).numpy()

    def logit(h1, h2):
        return np.asarray(find.net.logit(torch.as_tensor(h1), torch.as_tensor(h2)))

    with torch.no_grad():
        return one_shot_answers(features, logit, Trials(images, test, support, None))  # the right answers are not here


QUESTIONS = {
    question.__name__: question
    for question in (
        load, call, forwards, both_ways, backwards, twice, left_alone, threads, steps, answers, load_net, net_answers,
    )
}  # fmt: skip


def ask(find, question, arguments):
    """Put a question to functions, on copies of its arguments, and return their answer."""
    arguments = [np.random.default_rng(a.seed) if isinstance(a, Seed) else copy.deepcopy(a) for a in arguments]
    return QUESTIONS[question](find, *arguments)


# The submission -------------------------------------------------------------------------------------------------------


class Submission:
    """Find the functions of a submission's modules."""

    def __init__(self, folder):
        self.folder, self.prefix = Path(folder), ""

    def load(self, module):
        """Import and return a module; if it imports another by from .layers, as one of a package called submission."""
        try:
            return importlib.import_module(self.prefix + module)
        except ImportError as error:
            if "no known parent package" not in str(error):
                raise
        package = sys.modules["submission"] = types.ModuleType("submission")
        package.__path__, self.prefix = [str(self.folder)], "submission."
        if "given" in sys.modules:
            package.given = sys.modules["submission.given"] = sys.modules["given"]
        return importlib.import_module(self.prefix + module)

    def __call__(self, name):
        module, function = name.split(".")
        found = getattr(self.load(module), function, None)
        if not callable(found):
            raise Missing(f"{module}.py has no function {function}")
        return found


def problem(error):
    """Say an exception of a submission: its kind and a line in words."""
    if isinstance(error, Missing):
        return "not written", str(error)
    if isinstance(error, NotImplementedError):
        return "not written", f"not written yet: {error}"
    if isinstance(error, SystemExit):
        return "wrong", "it called sys.exit"
    if isinstance(error, MemoryError):
        return "wrong", "it asked for more memory than there is"
    return "wrong", f"it raised {type(error).__name__}: {error}".removesuffix(": ")


def limit(torch, processes):
    """Limit this process's memory, files, time and number of processes for good.

    torch: a net of torch may have eight times the memory; processes: limit their number too
    """
    import resource

    for name, most in LIMITS.items():
        most *= 8 if torch and name != "CPU" else 1
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if processes:
        most = PROCESSES * (8 if torch else 1)
        before = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, before[1]))
        try:
            threading.Thread(target=int).start()
        except RuntimeError:  # before Linux 5.14 the user's other processes count
            most = before[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def serve(read, write, about):
    """Answer questions until there are no more; the submission's own code runs here."""
    questions, answers = Connection(int(read), writable=False), Connection(int(write), readable=False)
    about = json.loads(about)
    sys.path.insert(0, about["folder"])
    if about["torch"]:
        sys.path.append(about["root"])
    else:
        sys.path.insert(0, tempfile.mkdtemp())  # where Numba may write beside the loops that are compiled already
        shutil.copytree(about["given"], sys.path[0], dirs_exist_ok=True)
        given = importlib.import_module("given")
        RECORDS.update(Drawings=given.Drawings, Trials=given.Trials)
        importlib.import_module("numba").set_num_threads(1)
        sys.modules["torch"] = sys.modules["koch"] = None  # an import of them is an ImportError
    find = Submission(about["folder"])
    sys.setrecursionlimit(2000)
    limit(about["torch"], about["processes"])
    answers.send_bytes(pack("ready"))
    while True:
        try:
            question, arguments = unpack(questions.recv_bytes())
        except EOFError:
            return
        try:
            answer = pack({"answer": ask(find, question, arguments)})
        except BaseException as error:  # whatever a submission raises, SystemExit too
            answer = pack(dict(zip(("kind", "error"), problem(error))))
        answers.send_bytes(answer)


if __name__ == "__main__":
    serve(*sys.argv[1:])
