"""How did a training go? Draw a run's loss and validation accuracy over its steps: python tutorials/curves.py runs/NAME"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import koch
from tutorials import common, pictures


def draw_curves(log, path):
    """Draw the loss and the validation accuracy over the steps; log: that of results.json."""
    figure = pictures.new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in log], [row["loss"] for row in log], ".-", color=pictures.OURS, markersize=3)
    pictures.label(left, "step", "training loss (nats)", yscale="log")
    taken = [row for row in log if row["validation"] is not None]
    percent = [100 * row["validation"] for row in taken]
    right.plot([row["step"] for row in taken], percent, ".-", color=pictures.OURS)
    pictures.label(right, "step", "validation trials right (%)", xlim=left.get_xlim())
    pictures.save(figure, path)


def main():
    parser = common.Parser(prog="tutorials/curves.py", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a finished run, with its results.json")
    folder = parser.parse_args().folder

    def run():
        with koch.explained(f"{folder} is not the folder of a finished run"):
            log = json.loads((folder / "results.json").read_text())["log"]
        draw_curves(log, folder / "curves.png")
        print(f"picture: {folder / 'curves.png'}")

    return common.guarded("tutorials/curves.py", run)


if __name__ == "__main__":
    sys.exit(main())
