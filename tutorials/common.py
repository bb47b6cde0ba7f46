"""What the studies and the marking share: a command line, errors of one line, numbered folders."""

import itertools
import sys

import koch
from koch import RUNS, write_whole  # noqa: F401  for whoever imports this
from reference_numpy import data


class Parser(koch.Parser):
    """Parse a command line as koch.py does; an error names the script."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def guarded(name, run):
    """Run a script's work; return its exit status, 0 if it returns none, 2 with one line for bad input."""
    try:
        return run() or 0
    except (koch.UserError, data.UserError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"{name}: {error.filename or 'a file'} cannot be read or written ({error.strerror})", file=sys.stderr)
    return 2


def new_folder(name):
    """Return the path of a new folder, runs/NAME, with a number where that is taken."""
    numbered = (RUNS / f"{name}-{n}" for n in itertools.count(2))
    return next(path for path in itertools.chain([RUNS / name], numbered) if not path.exists())
