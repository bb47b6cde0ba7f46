"""What both command lines share and has nothing to do with nets: errors, options, progress, whole files, signals."""

import argparse
import contextlib
import dataclasses
import inspect
import itertools
import os
import platform
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

RUNS = Path("runs")


class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""


def reason(error):
    """Say an error in one line."""
    error = getattr(error, "reason", None) or error  # what a URLError wraps
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]


class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2, and no option can be abbreviated."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        name = self.prog.removeprefix("python -m ").split()[0]
        self.exit(2, f"{name}: {message}; {self.prog} --help lists what there is\n")


def add_options(parser, config, choices, *names):
    """Give a parser options for a dataclass's fields (all, if none is named); its source's comments are their help.

    choices: {field: allowed values}. Options that are not given are missing from what the parser returns.
    """
    source = Path(inspect.getfile(config)).read_text(encoding="utf-8")  # inspect.getsource takes 0.03 s each time
    _, _, source = source.partition(f"\nclass {config.__name__}:\n")
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", source.partition("\n\n\n")[0], re.MULTILINE))
    for field in dataclasses.fields(config):
        if field.name in names or not names:
            how = {"type": field.type, "choices": choices.get(field.name), "metavar": field.type.__name__.upper()}
            if field.type is bool:
                how = {"action": argparse.BooleanOptionalAction}
            elif how["choices"]:
                del how["metavar"]
            text = (comments[field.name] + f" (default: {field.default})" * (field.default != "")).replace("%", "%%")
            parser.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **how)


def whole_numbers(text):
    """Read whole numbers of at least 1 by commas, for an option: "1,5" -> [1, 5]."""
    if min(numbers := [int(part) for part in text.split(",")]) < 1:
        raise ValueError
    return numbers


def check_values(config, choices, least):
    """Check a dataclass's values: {field: allowed values}, {field: least number}, 0 for others. Raises UserError."""
    for name, value in dataclasses.asdict(config).items():
        option, lowest = f"--{name.replace('_', '-')}", least.get(name, 0)
        if name in choices and value not in choices[name]:
            raise UserError(f"{option} is one of {', '.join(map(str, choices[name]))}, not {value}")
        if isinstance(value, (int, float)) and not lowest <= value < 2**63:
            raise UserError(f"{option} is at least {lowest}, not {value}")


def guarded(name, run):
    """Run a command; return its exit status, 2 with one line on stderr for a UserError or an OSError."""
    try:
        return run()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"{name}: {error.filename or 'a file'} cannot be read or written ({reason(error)})", file=sys.stderr)
    return 2


def new_folder(name, otherwise):
    """Return the folder of a new run, runs/NAME, made when its first file is written.

    name: "" for otherwise, with a number where that is taken. Raises UserError when the name is taken, or is none.
    """
    if not re.fullmatch(r"(\w[\w.,=+-]*)?", name):
        raise UserError(f"--name is the name of a folder in {RUNS}/, not {name!r}")
    if name and (RUNS / name).exists():
        raise UserError(f"{RUNS / name}/ is there already; take another --name or go on with --resume {RUNS / name}")
    numbered = (RUNS / (otherwise + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
    return RUNS / name if name else next(folder for folder in numbered if not folder.exists())


def processor():
    """Say which processor computes."""
    about = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    return (re.findall(r"model name\s*: (.*)", about) or [platform.processor()])[0]


@contextlib.contextmanager
def written_whole(path):
    """Yield a temporary file to write; it becomes path at the end, so that path is whole or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def progress(label, done, total, note="", seconds=0.0, keep=False):
    """Show a bar with the time left on one line that is written over; into a file only the lines to keep."""
    minutes, rest = divmod(int(seconds / done * (total - done) if done < total else seconds), 60)
    left = f"  {minutes}:{rest:02}" + " left" * (done < total) if seconds else ""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = f"{label} [{'#' * (20 * done // max(total, 1)):.<20}] {done / max(total, 1):4.0%}  {note}{left}"
        print(f"\r{line[:width]:<{width}}", end="\n" if done == total else "", flush=True)
    elif keep or done == total:
        print(f"{label} {done:,} of {total:,}  {note}{left}", flush=True)


@contextlib.contextmanager
def noted_signals():
    """Yield a list to which Ctrl-C and SIGTERM add their number instead of ending the program, the first time."""
    noted = []

    def note(number, frame):
        noted.append(number)
        signal.signal(number, before[number])

    mine = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if mine}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
