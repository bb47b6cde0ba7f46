"""What the studies and the marking share: whole files, errors of one line, numbered folders; without torch."""

import argparse
import os
import sys
from pathlib import Path

RUNS = Path("runs")


def write_whole(path, content):
    """Write bytes to a file that is whole or is not there; its folder is made if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2, and no option can be abbreviated."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def guarded(name, run):
    """Run a script's work; return its exit status, 2 with one line for a UserError of either room or an OSError."""
    try:
        return run()
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"{name}: {error.filename or 'a file'} cannot be read or written ({error.strerror})", file=sys.stderr)
    except Exception as error:
        if type(error).__name__ != "UserError":
            raise
        print(f"{name}: {error}", file=sys.stderr)
    return 2


def new_folder(name):
    """Return the path of a new folder, runs/NAME, with a number where that is taken."""
    folder, n = RUNS / name, 1
    while folder.exists():
        n += 1
        folder = RUNS / f"{name}-{n}"
    return folder
