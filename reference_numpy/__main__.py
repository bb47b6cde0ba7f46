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

def read_command_line(arguments):
    """Return the options of a command line as a dict, "command" among them."""
    parser = Parser(prog="python -m reference_numpy", description="The twin net from scratch, in NumPy and Numba.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    train = commands.add_parser("train", help="train the reduced net without torch, then answer Lake's 400 trials")
    text = "drawings that koch.py keeps (default: omniglot, else invented)"
    choices = "omniglot", "invented", "auto"
    train.add_argument("--data", default="auto", choices=choices, dest="data_set", help=text)
    train.add_argument("--steps", type=int, default=1200, help="minibatches (default: 1200)")
    train.add_argument("--seed", type=int, default=0, help="of all random draws (default: 0)")
    train.add_argument("--name", default="", help="results go to runs/NAME (default: made from data and seed)")
    baselines = commands.add_parser("baselines", help="answer Lake's trials by pixels and by the Hausdorff distance")
    for command in (train, baselines):
        text = "where koch.py keeps its drawings (default: $KOCH_DATA, else data/)"
        command.add_argument("--data-dir", default="", metavar="FOLDER", help=text)
    compare = commands.add_parser("compare", help="compare the rungs, torch and a student's module: errors and speed")
    text = "a module or a .py file, its functions named as in layers.py"
    compare.add_argument("module", nargs="?", default="", metavar="MODULE", help=text)
    compare.add_argument("--full", action="store_true", help="Koch's own shapes too: several minutes instead of one")
    text = "for a case of a function of MODULE (default: 10)"
    compare.add_argument("--limit", type=float, default=10.0, metavar="SECONDS", help=text)
    return vars(parser.parse_args(arguments))

def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    options = read_command_line(arguments)
    command = options.pop("command")
    try:
        if command == "train":
            from .train import train as run
        elif command == "compare":
            from .compare import compare as run
        else:
            from .baselines import baselines as run
        run(**options)
        return 0
    except UserError as error:
        print(f"reference_numpy: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"reference_numpy: {error.filename or 'a file'} cannot be read or written ({error})", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nreference_numpy: stopped; a best.npz in runs/ can be used", file=sys.stderr)
        return 130
    return 2

if __name__ == "__main__":
    sys.exit(main())
