"""The command line: python -m reference_numpy train, compare [MODULE] or baselines."""

import argparse
import sys

from .data import UserError


class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2, and no option can be abbreviated."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"reference_numpy: {message}; {self.prog} --help lists what there is\n")


def counted(text):
    """Read a whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    parser = Parser(prog="python -m reference_numpy", description="The twin net from scratch, in NumPy and Numba.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    command = commands.add_parser("train", help="train the reduced net without torch, then take Lake's 400 trials")
    command.add_argument("--data", default="auto", choices=("auto", "omniglot", "invented"), dest="data_set",
                         help="as koch.py keeps them: omniglot or invented; auto: omniglot, if it is there")  # fmt: skip
    command.add_argument("--data-dir", default="", dest="folder", metavar="FOLDER",
                         help="where omniglot.npz and lake.npz are (default: $KOCH_DATA, else data/)")  # fmt: skip
    command.add_argument("--steps", type=counted, default=1200, help="minibatches (default: 1200)")
    command.add_argument("--seed", type=int, default=0, help="of every random draw (default: 0)")
    command.add_argument("--name", default="", help="results go to runs/NAME (default: made from data and seed)")
    command = commands.add_parser("compare", help="compare the rungs, torch and a student's module: errors and speed")
    command.add_argument("module", nargs="?", default="", metavar="MODULE",
                         help="a module or a .py file, its functions named as in layers.py")  # fmt: skip
    command.add_argument("--quick", action="store_true", help="the small shapes alone: a minute instead of several")
    command.add_argument("--limit", type=float, default=20.0, metavar="SECONDS",
                         help="for one case of one function of MODULE (default: 20)")  # fmt: skip
    command = commands.add_parser("baselines", help="answer Lake's 400 trials by pixels and by the Hausdorff distance")
    command.add_argument("--data-dir", default="", dest="folder", metavar="FOLDER",
                         help="where lake.npz is (default: $KOCH_DATA, else data/)")  # fmt: skip
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "train":
            from .train import train

            train(**options)
        elif command == "compare":
            from .compare import compare

            compare(**options)
        else:
            from .baselines import compare

            compare(**options)
        return 0
    except UserError as error:
        print(f"reference_numpy: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"reference_numpy: {error.filename or 'a file'} cannot be read or written ({error})", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nreference_numpy: stopped; what runs/ holds of it can be used", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
