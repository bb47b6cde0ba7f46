"""What trainings, files and commands survive: python tests/faults.py [--share 1] [--rows kills,signals]

Each row is a kind of trouble; its cases are numbered and drawn by their number, so that any can be tried again:
`--rows kills --case 17`. A case survives if nothing is lost, nothing silently different, and what is said is one line;
else its outcome says what broke. A finished case is a line of runs/faults.jsonl and is not tried again. The last thing
printed is the table. With --share 0.1 only each row's first tenth is tried.

A training is a child of this process, which has imported all: a tiny net on invented alphabets, of either recipe.
"""

import argparse
import contextlib
import functools
import http.server
import io
import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np
import torch
from conftest import random_drawings, thin_twin
from PIL import Image

import koch
from reference_numpy import data, train
from tutorials import mnist

OUTCOMES = Path("runs/faults.jsonl").resolve()
TRAIN = "train --data invented --size 35 --device cpu --precision float32 --name tiny".split()
RECIPES = {"fast": ["--steps", "12", "--validations", "4", "--alphabets", "2", "--characters", "3"]}
RECIPES["paper"] = "--recipe paper --pairs 8 --batch 24 --steps 12 --distort".split()  # four epochs
NOBODY = 65534
NAMED = "delete it"  # what the line of a taken name says besides --resume


# A tiny world ---------------------------------------------------------------------------------------------------------


def shrink():
    """Make koch's net thin and its tests short, in a process that ends soon."""
    torch.set_num_threads(1)
    os.environ.pop("KOCH_DATA", None)
    koch.N_FRESH, koch.N_PAIRS, koch.LOOKS, koch.reduced_twin = 30, 100, koch.LOOKS[:, :2], thin_twin


class Child:
    """Run a function in a fork of this process, in a folder; after wait, status is its exit status, said its output."""

    def __init__(self, folder, function):
        self.log = Path(tempfile.mkstemp()[1])
        self.pid = os.fork()
        if not self.pid:
            status = 99
            try:
                os.setsid()
                sys.stdout = sys.stderr = open(self.log, "w", buffering=1)
                os.chdir(folder)
                shrink()
                status = function()
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)

    def wait(self):
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.said = self.log.read_text(errors="replace")
        self.log.unlink()
        return self


def command(folder, arguments, before=lambda: None):
    """Start a command of koch.py in a folder, after what before() does to that process; return the Child."""

    def run():
        before()
        return koch.main([str(argument) for argument in arguments])

    return Child(folder, run)


def error_lines(child):
    """Return what a child said wrong: "" if it ended well, or stopped or failed with one line and the right status."""
    lines = [line for line in child.said.splitlines() if line.startswith("koch.py: ")]
    if "Traceback" in child.said or "Exception ignored" in child.said:
        return "traceback: " + child.said.strip().splitlines()[-1]
    if child.status not in (0, 2, 130) or (child.status != 0) != (len(lines) == 1):
        return f"status {child.status} and {len(lines)} lines of error"
    return ""


@contextlib.contextmanager
def world():
    """Make a folder with a small data/invented.npz; yield it and delete it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        drawings = random_drawings((3,) * 50, 20)._replace(by_drawer=True)
        koch.kept(Path(folder) / "data" / "invented.npz", koch.Drawings, lambda: drawings)
        yield Path(folder)


def contents(run):
    """Return what a finished run left, but for the seconds that it took."""
    last = torch.load(run / "last.pt", weights_only=True)
    results = json.loads((run / "results.json").read_text())
    del last["seconds"], results["seconds"]
    files = sorted(path.name for path in run.iterdir())
    return pickle.dumps([(run / "best.pt").read_bytes(), repr(last), results, files])


WHOLE = {}  # recipe: the contents of a training that nobody disturbed


def whole(recipe):
    if recipe not in WHOLE:
        with world() as folder:
            child = command(folder, TRAIN + RECIPES[recipe]).wait()
            assert child.status == 0, child.said
            WHOLE[recipe] = contents(folder / "runs" / "tiny")
    return WHOLE[recipe]


def go_on(folder, recipe):
    """Go on with a disturbed training as its user would; return what broke, or "" if its end is that of whole()."""
    run = folder / "runs" / "tiny"
    if not (run / "last.pt").exists() and run.exists():  # the line of the same command says how
        refused = command(folder, TRAIN + RECIPES[recipe]).wait()
        if error_lines(refused) or NAMED not in refused.said:
            return f"the same command is refused without a way: {refused.said.strip()}"
        shutil.rmtree(run)
    arguments = ["train", "--resume", "runs/tiny"] if run.exists() else TRAIN + RECIPES[recipe]
    child = command(folder, arguments).wait()
    if wrong := error_lines(child) or ("" if child.status == 0 else child.said.strip()):
        return f"going on: {wrong}"
    return "" if contents(run) == whole(recipe) else "the end differs"


def recipe_of(case):
    return ("fast", "paper")[case % 2]


# Kills, signals, crashes, disks and companions ------------------------------------------------------------------------


def duration(recipe):
    """Return the seconds of an undisturbed training here, in this process's fork; measured once."""
    if recipe not in DURATIONS:
        whole(recipe)
        with world() as folder:
            began = time.monotonic()
            command(folder, TRAIN + RECIPES[recipe]).wait()
            DURATIONS[recipe] = time.monotonic() - began
    return DURATIONS[recipe]


DURATIONS = {}


def kills(case):
    """SIGKILL at a random moment, once to three times."""
    draw, recipe = random.Random(case), recipe_of(case)
    with world() as folder:
        for attempt in range(draw.randint(1, 3)):
            resumable = (folder / "runs" / "tiny" / "last.pt").exists()
            if attempt and not resumable:
                break
            child = command(folder, ["train", "--resume", "runs/tiny"] if attempt else TRAIN + RECIPES[recipe])
            time.sleep(draw.uniform(0, duration(recipe)))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.wait()
        return go_on(folder, recipe)


def signals(case):
    """Ctrl-C and SIGTERM, one to four, together or within some milliseconds."""
    draw, recipe = random.Random(case), recipe_of(case)
    with world() as folder:
        child = command(folder, TRAIN + RECIPES[recipe])
        time.sleep(draw.uniform(0.02, duration(recipe)))
        for _ in range(draw.randint(1, 4)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, draw.choice([signal.SIGINT, signal.SIGTERM]))
            time.sleep(draw.choice([0, 0, 0.001, 0.01]))
        if wrong := error_lines(child.wait()):
            return wrong
        return go_on(folder, recipe)


N_WRITES, MOMENTS = 14, ("before", "half-way", "before it is named", "after")


def crash_points(case):
    """The power fails before, inside and after each write of a training."""
    case, moment = divmod(case, len(MOMENTS))
    number, recipe = divmod(case, 2)
    recipe = recipe_of(recipe)

    def crashing(count=itertools.count(), write=koch.write_whole):
        def write_whole(path, content):
            if next(count) != number:
                return write(path, content)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            if 0 < moment < 3:
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(content[: len(content) // 2] if moment == 1 else content)
            elif moment == 3:
                write(path, content)
            os._exit(9)

        koch.write_whole = write_whole

    with world() as folder:
        child = command(folder, TRAIN + RECIPES[recipe], crashing).wait()
        if child.status == 0:
            return "" if number >= 9 else "there was no such write"
        return go_on(folder, recipe)


def full_disk(case):
    """No file can be larger than some kilobytes, as on a full disk."""
    draw, recipe = random.Random(case), recipe_of(case)
    n = draw.choice([4000, draw.randint(4000, 20_000), draw.randint(4000, 400_000)])  # the output is in a file too
    with world() as folder:
        child = command(folder, TRAIN + RECIPES[recipe], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)))
        if wrong := error_lines(child.wait()):
            return wrong
        if list(folder.rglob("*.part")):
            return "something half-written is left"
        return go_on(folder, recipe)


CLOSED = (".", "runs", "runs/tiny", "data")


def read_only(case):
    """A folder in which nothing may be written, for a user who may not change that."""
    place, recipe = CLOSED[case % len(CLOSED)], recipe_of(case // len(CLOSED))

    def nobody():  # who may not read Python's folders nor this project's: a training loads all that is loaded late
        with world() as other, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(other)
            koch.main(TRAIN + RECIPES[recipe])
            os.chdir(folder)
        koch.__file__ = shutil.copy(koch.__file__, folder / "koch.py")  # --help is made of it
        if os.getuid() == 0:
            os.setgid(NOBODY), os.setuid(NOBODY)

    def closed(folder, mode):
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        (folder / place).chmod(mode)

    with world() as folder:
        arguments = TRAIN + RECIPES[recipe]
        if place == "runs":
            (folder / "runs").mkdir()
        if place == "runs/tiny":  # a training that was stopped
            command(folder, arguments, lambda: setattr(koch, "finish", koch.stop)).wait()
            arguments = ["train", "--resume", "runs/tiny"]
        closed(folder, 0o555)
        child = command(folder, arguments, nobody).wait()
        closed(folder, 0o777)
        if wrong := error_lines(child) or ("" if (child.status == 0) == (place == "data") else child.said.strip()):
            return wrong
        return go_on(folder, recipe)


def two_at_once(case):
    """Two trainings of one name, or two that go on with one folder, within a moment."""
    draw, recipe, resumed = random.Random(case), recipe_of(case), case % 4 > 1
    with world() as folder:
        arguments = TRAIN + RECIPES[recipe]
        if resumed:
            command(folder, arguments, lambda: setattr(koch, "finish", koch.stop)).wait()
            arguments = ["train", "--resume", "runs/tiny"]
        children = [command(folder, arguments)]
        time.sleep(draw.choice([0, 0, draw.uniform(0, duration(recipe))]))
        children.append(command(folder, arguments))
        for child in children:
            if wrong := error_lines(child.wait()):
                return wrong
        ended = sorted(child.status for child in children)
        if ended != ([0, 0] if resumed else [0, 2]):
            return f"they ended {ended}"
        return go_on(folder, recipe)


# Files ----------------------------------------------------------------------------------------------------------------


def damaged(content, draw):
    """Return bytes with some damage: bits, bytes and runs changed, cut off, taken out, put in, repeated, exchanged."""
    content, kind, n = bytearray(content), draw.randrange(8), draw.choice([1, 4, 64, 1000])
    at = draw.choice([draw.randrange(len(content)), draw.randrange(min(200, len(content))), -draw.randint(1, 200)])
    at %= len(content)
    if kind == 0:
        content[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        content[at] = draw.randrange(256)
    elif kind == 2:
        content[at : at + n] = draw.randbytes(len(content[at : at + n]))
    elif kind == 3:
        content[at : at + n] = bytes(len(content[at : at + n]))
    elif kind == 4:
        del content[at:]
    elif kind == 5:
        del content[at : at + n]
    elif kind == 6:
        content[at:at] = draw.randbytes(n)
    else:
        content[at:at] = content[at : at + n]
    return bytes(content)


def damaged_member(content, draw):
    """Return a zip in which one picture is damaged, and its checksum is that of the damaged one."""
    old, new = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    chosen = draw.choice(old.namelist())
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, damaged(old.read(name), draw) if name == chosen else old.read(name))
    return new.getvalue()


def plain(value):
    """Return tensors, tuples and configurations as what can be compared with ==."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return str(value.dtype), tuple(value.shape), np.asarray(value).tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def read_cache(path):
    return koch.kept(path, koch.Drawings, lambda: koch.UserError("made again"))


def read_checkpoint(path):
    net = koch.load_checkpoint(path)
    return [net.state_dict(), net.config, net.step, net.validation, net.scale, net.shift]


def read_state(path):
    state = koch.load_state(path, **koch.SAVED)
    koch.Run(koch.settle(state["config"]), state)
    return state


def read_digits(path):
    return mnist.load_mnist(path.parent)


def read_zip(path):
    classes = koch.read_classes(path, functools.partial(koch.read_picture, ink="dark"))
    return {name: [image.tobytes() for image in images] for name, images in classes.items()}


def read_picture(path):
    image = koch.read_picture(path, path.name)
    assert image.shape == (105, 105) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1


READERS = {"cache.npz": read_cache, "best.pt": read_checkpoint, "last.pt": read_state, "pictures.zip": read_zip}
READERS |= {name: read_digits for name in mnist.FILES}
PICTURES = "p.png p.jpg p.gif p.bmp p.tiff p.webp p.pgm rgba.png p16.png p16.tiff f.tiff".split()
READERS |= {name: read_picture for name in PICTURES}
READERS |= {"arrays.npz": lambda path: data.load_arrays(path.name, ("alphabet", "names"), path.parent)}
READERS |= {"best.npz": train.load_checkpoint}
OFTEN = {"cache.npz": 3, "arrays.npz": 2, "best.pt": 3, "last.pt": 3, "pictures.zip": 5}  # the rest once
TURNS = list(itertools.chain(*([name] * OFTEN.get(name, 1) for name in READERS)))
N_FILES = 20_000
FILES = {}  # name: (its bytes, what its reader returns)


def make_files():
    """Make a good file of every kind that koch.py reads; fill FILES."""
    import gzip

    grey = np.random.default_rng(0).integers(0, 256, (60, 40), dtype=np.uint8)
    with world() as folder:
        command(folder, TRAIN + RECIPES["fast"]).wait()
        drawings = random_drawings((3, 2), 4)
        for name in ("cache.npz", "arrays.npz"):
            koch.kept(folder / name, koch.Drawings, lambda: drawings)
        train.save_checkpoint(folder / "best.npz", {"a": np.arange(600.0), "b": np.ones((3, 4))}, {"step": 1})
        for name in ("best.pt", "last.pt"):
            shutil.copy(folder / "runs" / "tiny" / name, folder / name)
        with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
            for row, images in enumerate(drawings.images.numpy()):
                for column, image in enumerate(images):
                    content = io.BytesIO()
                    Image.fromarray(1 - image).point(lambda value: 255 * value).convert("1").save(content, "PNG")
                    archive.writestr(f"A/{row:02}/{column}.png", content.getvalue())
        digits = np.arange(10_000, dtype=np.uint8) % 10
        for name, head, body in (("images", 16, np.repeat(digits, 784).tobytes()), ("labels", 8, digits.tobytes())):
            path = next(folder / name_of for name_of in mnist.FILES if name in name_of)
            path.write_bytes(gzip.compress(bytes(head) + body, 1))
        modes = {"rgba.png": "RGBA", "p16.png": "I;16", "p16.tiff": "I;16", "f.tiff": "F"}
        for name in PICTURES:
            picture = Image.fromarray(grey)
            wide = {"I;16": grey.astype(np.uint16) * 250, "F": grey.astype(np.float32)}.get(modes.get(name))
            picture = picture.convert(modes.get(name, "L")) if wide is None else Image.fromarray(wide)
            picture.save(folder / name)
        for name, reader in READERS.items():
            FILES[name] = (folder / name).read_bytes(), plain(reader(folder / name))
        for name in [name for name in READERS if name.startswith("t10k")]:
            FILES[name] += ({other: (folder / other).read_bytes() for other in READERS if other.startswith("t10k")},)


def files(case):
    """A damaged file of every kind that is read: an error of one line, or what the file held before."""
    if not FILES:
        shrink()
        make_files()
    draw, name = random.Random(case), TURNS[case % len(TURNS)]
    content, value, *beside = FILES[name]
    harmed = damaged_member(content, draw) if name == "pictures.zip" and draw.random() < 0.5 else damaged(content, draw)
    with tempfile.TemporaryDirectory() as folder:
        for other, whole_file in itertools.chain(*(files_beside.items() for files_beside in beside)):
            (Path(folder) / other).write_bytes(whole_file)
        (Path(folder) / name).write_bytes(harmed)
        wrong, found = what_broke(READERS[name], Path(folder) / name)
        return wrong or ("" if found in (None, value) else f"{name}: silently different")


def what_broke(reader, path):
    """Read a file; return what broke, or "", and what the reader returned, None where it refused in one line."""
    try:
        return "", plain(reader(path))
    except (koch.UserError, data.UserError) as error:
        return ("" if "\n" not in str(error) else f"{path.name}: more than one line: {error}"), None
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}", None


VALUES = (None, "large", -1, 0.5, [1], {"a": 1}, float("nan"), 10**30, "missing")
KEYS = [(name, key) for name in ("best.pt", "last.pt") for key in ("net", "config", "step", "validation", "calibration")]
KEYS += [("last.pt", key) for key in [*koch.SAVED, "optimizers"]]
KEYS += [("best.pt", ("config", field)) for field in ("size", "data", "seed", "recipe", "momenta", "an unknown option")]
KEYS += [("best.pt", ("net", "join.bias"))]


def wrong_checkpoints(case):
    """A sound file of torch that holds something else: each key with another value, or without it."""
    (name, key), value = KEYS[case // len(VALUES)], VALUES[case % len(VALUES)]
    if not FILES:
        shrink()
        make_files()
    state = torch.load(io.BytesIO(FILES[name][0]), weights_only=True)
    holder = state[key[0]] if isinstance(key, tuple) else state
    holder[key[-1] if isinstance(key, tuple) else key] = value
    if value == "missing":
        del holder[key[-1] if isinstance(key, tuple) else key]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / name)
        return what_broke(READERS[name], Path(folder) / name)[0]


# Downloads ------------------------------------------------------------------------------------------------------------

OFFICIAL = random.Random(0).randbytes(300_000)
GOOD = ("whole", "redirected", "slow", "without a length")
BAD = ("cut off", "short", "long", "another file", "a page", "nothing", "not there", "an error", "a circle")


class Server(http.server.BaseHTTPRequestHandler):
    """Answer with the official file in the way that the address names."""

    def do_GET(self):
        way = self.path.strip("/").split("/")[0].replace("%20", " ")
        status = {"not there": 404, "an error": 500, "redirected": 302, "a circle": 302}.get(way, 200)
        content = {"another file": b"x" * 300_000, "a page": b"<html>sign in</html>", "nothing": b""}.get(way, OFFICIAL)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path if way == "a circle" else "/whole/file")
            content = b""
        elif way != "without a length":
            claimed = {"short": len(content) - 1000, "long": len(content) + 1000}.get(way, len(content))
            self.send_header("Content-Length", str(claimed))
        self.end_headers()
        with contextlib.suppress(OSError):
            if way == "slow":
                for at in range(0, len(content), 30_000):
                    self.wfile.write(content[at : at + 30_000])
                    time.sleep(0.05)
            else:
                self.wfile.write(content[: len(content) // 2] if way == "cut off" else content)

    def log_message(self, *_):
        pass


def downloads(case):
    """A download in all ways in which a server can answer."""
    way = (GOOD + BAD)[case % len(GOOD + BAD)]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address, name = f"http://127.0.0.1:{server.server_address[1]}/{way.replace(' ', '%20')}/", "all_runs.zip"
    saved = koch.OMNIGLOT, koch.FILES[name]
    koch.OMNIGLOT, koch.FILES[name] = address, ("", koch.hashlib.sha256(OFFICIAL).hexdigest())
    try:
        with tempfile.TemporaryDirectory() as folder:
            try:
                content = koch.data_file(folder, name).read_bytes()
            except koch.UserError as error:
                lost = way in GOOD or "\n" in str(error) or list(Path(folder).iterdir())
                return f"{way}: {error}" if lost else ""
            except Exception as error:
                return f"{way}: {type(error).__name__}: {error}"
            return "" if way in GOOD and content == OFFICIAL else f"{way}: what came was kept"
    finally:
        koch.OMNIGLOT, koch.FILES[name] = saved
        server.shutdown()
        server.server_close()


# The table ------------------------------------------------------------------------------------------------------------

ROWS = {  # row: how many cases
    kills: 200, signals: 100, crash_points: 2 * N_WRITES * len(MOMENTS), full_disk: 60, read_only: 8,
    two_at_once: 40, downloads: len(GOOD + BAD), files: N_FILES, wrong_checkpoints: len(KEYS) * len(VALUES),
}  # fmt: skip


def tried():
    """Return {(row, case): outcome} of the cases that were tried; outcome: "" or what broke."""
    lines = [json.loads(line) for line in OUTCOMES.read_text().splitlines()] if OUTCOMES.exists() else []
    return {(line["row"], line["case"]): line["outcome"] for line in lines}


def print_table(outcomes):
    print("\n| what was tried | cases | survived | what broke |\n|---|---|---|---|")
    for row in ROWS:
        found = [outcome for (name, _), outcome in outcomes.items() if name == row.__name__]
        broke = sorted({outcome for outcome in found if outcome})
        print(f"| {row.__doc__} | {len(found)} | {found.count('')} | {'; '.join(broke[:5])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ",".join(row.__name__ for row in ROWS)
    parser.add_argument("--rows", default=names, help="by commas (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of each row's cases (default: %(default)s)")
    parser.add_argument("--case", type=int, help="try this case alone, and again")
    options = parser.parse_args()
    OUTCOMES.parent.mkdir(exist_ok=True)
    with OUTCOMES.open("a") as file:
        for row, n in ROWS.items():
            if row.__name__ not in options.rows.split(","):
                continue
            done = set() if options.case is not None else {case for name, case in tried() if name == row.__name__}
            cases = [options.case] if options.case is not None else range(max(1, round(n * options.share)))
            for case in (case for case in cases if case not in done):
                outcome = row(case)
                file.write(json.dumps({"row": row.__name__, "case": case, "outcome": outcome}) + "\n")
                file.flush()
                if outcome:
                    print(f"{row.__name__} {case}: {outcome}", flush=True)
    print_table(tried())


if __name__ == "__main__":
    main()
