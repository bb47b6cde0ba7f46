"""The command line: python -m reference_numpy train, python -m reference_numpy compare [MODULE]."""

import sys

from .terminal import Parser, guarded


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
                         help="omniglot or invented; auto: Omniglot, or invented where it cannot be had")  # fmt: skip
    command.add_argument("--data-dir", default="", dest="folder", metavar="FOLDER",
                         help="where the data files are (default: $KOCH_DATA, else data/)")  # fmt: skip
    command.add_argument("--steps", type=counted, default=1200, help="minibatches (default: 1200)")
    command.add_argument("--seed", type=int, default=0, help="of every random draw (default: 0)")
    command.add_argument("--name", default="", help="results go to runs/NAME (default: made from data and seed)")
    command = commands.add_parser("compare", help="compare the rungs, torch and a student's module: errors and speed")
    command.add_argument("module", nargs="?", default="", metavar="MODULE",
                         help="a module or a .py file, its functions named as in layers.py")  # fmt: skip
    command.add_argument("--quick", action="store_true", help="the small shapes alone: a minute instead of several")
    command.add_argument("--limit", type=float, default=20.0, metavar="SECONDS",
                         help="for one case of one function of MODULE (default: 20)")  # fmt: skip
    options = vars(parser.parse_args(arguments))

    def run():
        if options.pop("command") == "train":
            from .train import train

            train(**options)
        else:
            from .compare import compare

            compare(**options)
        return 0

    try:
        return guarded("reference_numpy", run)
    except KeyboardInterrupt:
        print("\nstopped; what runs/ holds of it can be used", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
