"""Make the weights that ship with the project from a finished run: python tutorials/weights/make.py runs/RUN

Writes reduced.pt, the run's best checkpoint in half precision, and reduced.txt, which says how it was made and what it
scores: Lake's trials are taken again with the halved weights, so that the score is theirs.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import torch

import koch
from tutorials.common import Parser, guarded


def make(run):
    """Halve a run's best checkpoint and write what is known of it beside it. Raises UserError."""
    state = koch.load_state(run / "best.pt", calibration=tuple)
    with koch.explained(f"{run} is not the folder of a finished run on Omniglot"):
        results = json.loads((run / "results.json").read_text())
        before = results["lake"]["right"]
    state["net"] = {name: t.half() if t.is_floating_point() else t for name, t in state["net"].items()}
    state["config"] = results["config"] | {"data_dir": "", "name": ""}  # nobody's folders
    torch.save(state, HERE / "reduced.pt")
    net, lake = koch.load_checkpoint(HERE / "reduced.pt"), koch.lake_trials()
    right = koch.counted(koch.one_shot_answers(net, lake) == lake.answers)["right"]
    text = f"""reduced.pt: the reduced net, {net.n_parameters:,} parameters on {net.size}x{net.size}, half precision
command:    python koch.py train --minutes {net.config.minutes} --seed {net.config.seed}   ({net.config.steps:,} steps)
made with:  torch {results["torch"]}, {results["seconds"]:.0f} s of training on {net.config.data}
score:      {right} of Lake's 400 trials (the run itself, in {net.config.precision}: {before})
made by:    python tutorials/weights/make.py runs/RUN
"""
    (HERE / "reduced.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    parser = Parser(prog="make.py", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    options = parser.parse_args()
    sys.exit(guarded("make.py", lambda: make(options.run)))
