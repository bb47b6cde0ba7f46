"""Measure the records of README: python tests/records.py [--seeds 5] [--rows default,10]

Every row is a command of koch.py, run with seeds 0, 1, ... as a stranger would run it, one after the other. Each
finished run is a line of runs/records.jsonl, and what has its line is not run again: stop it and start it as you like.
Before each run the machine's rate of matrix products is measured: seconds times rate compare two machines. Leave both
cores free. The last thing printed is the table.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RECORDS = Path("runs/records.jsonl")
ROWS = {
    "200": "train --steps 200",
    "300": "train --steps 300",
    "default": "train",
    "10": "train --minutes 10",
    "40": "train --minutes 10 --steps 12500",
    "invented": "train --data invented --steps 2700",
    "paper": "train --recipe paper --size 35 --pairs 150000 --distort --steps 18500",
    "gpu": "train",
    "gpu-10": "train --minutes 10",
    "gpu-35": "train --size 35",
    "gpu-paper": "train --recipe paper --pairs 150000 --distort --steps 7000",
}
COLUMNS = {"lake": "Lake's 400", "within": "fresh, within an alphabet", "seconds": "seconds", "work": "TFLOP"}


def matrix_rate():
    """Return the rate of bfloat16 matrix products here, on the GPU or all threads, in GFLOP/s: the median of 15."""
    device, n = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    a, seconds = torch.randn(n, n, dtype=torch.bfloat16, device=device), []
    for _ in range(15):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the GPU
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / statistics.median(seconds) / 1e9


def measure(row, seed):
    """Run a row's command with a seed; return its record."""
    name = f"record-{row}-seed{seed}"
    shutil.rmtree(Path("runs") / name, ignore_errors=True)  # of a measurement that was stopped
    command = [sys.executable, ROOT / "koch.py", *ROWS[row].split(), "--seed", str(seed), "--name", name]
    rate, started = matrix_rate(), time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    results = json.loads((Path("runs") / name / "results.json").read_text())
    accuracies = {key: 100 * results[key]["accuracy"] for key in ("lake", "within", "across", "verification")}
    record = {"row": row, "command": ROWS[row], "seed": seed, "torch": torch.__version__, "GFLOP/s": rate}
    return record | accuracies | {"seconds": seconds, "work": seconds * rate / 1000}


def read_records():
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def print_table(records):
    """Print a line for each row: of every column its mean and its lowest and highest value."""
    print("\n| command | seeds | " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for row in dict.fromkeys(record["row"] for record in records):
        found = [record for record in records if record["row"] == row]
        cells = []
        for column in COLUMNS:
            values, digits = [record[column] for record in found], 2 if column in ("lake", "within") else 0
            low, mean, high = (f"{f(values):.{digits}f}" for f in (min, statistics.mean, max))
            cells.append(f"**{mean}** ({low} .. {high})")
        print(f"| `python koch.py {found[0]['command']}` | {len(found)} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, ... (default: %(default)s)")
    here = ",".join(row for row in ROWS if row.startswith("gpu") == torch.cuda.is_available())
    parser.add_argument("--rows", default=here, help=f"of {', '.join(ROWS)}; by commas (default: %(default)s)")
    options = parser.parse_args()
    rows = options.rows.split(",")
    if not set(rows) <= set(ROWS):
        parser.error(f"rows are {', '.join(ROWS)}")
    for row in rows:
        for seed in range(options.seeds):
            if (row, seed) not in {(record["row"], record["seed"]) for record in read_records()}:
                record = measure(row, seed)
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    print_table(read_records())


if __name__ == "__main__":
    main()
