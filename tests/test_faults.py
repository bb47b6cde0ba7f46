"""One case of every row of faults.py, which tries thousands."""

import os

import faults
import pytest
from conftest import has_loopback

if not hasattr(os, "fork"):
    pytest.skip("needs fork, which this system does not have", allow_module_level=True)

WRITE = 2 * len(faults.MOMENTS)  # crash_points: cases of a write, of two recipes at each moment
CASES = [(faults.kills, [0]), (faults.kills, [1]), (faults.signals, [0]), (faults.signals, [1])]
CASES += [(faults.crash_points, [number * WRITE + moment]) for number, moment in ((0, 1), (3, 2), (9, 2), (10, 1))]
CASES += [(faults.full_disk, [1]), (faults.read_only, [0]), (faults.two_at_once, [0]), (faults.two_at_once, [2])]
CASES += [(faults.downloads, range(len(faults.GOOD + faults.BAD))), (faults.files, range(4 * len(faults.TURNS)))]
CASES += [(faults.wrong_checkpoints, range(0, len(faults.KEYS) * len(faults.VALUES), 5))]


@pytest.mark.parametrize("row, cases", CASES, ids=lambda value: getattr(value, "__name__", str(value)[:10]))
def test_nothing_is_lost_nothing_is_silently_different_and_an_error_is_one_line(row, cases, tmp_path):
    if row is faults.downloads and not has_loopback():
        pytest.skip("the local server answers over the loopback interface, which is down")
    faults.duration("fast"), faults.duration("paper")  # measured once, in this process

    def outcomes():
        print([outcome for outcome in map(row, cases) if outcome])
        return 0

    child = faults.Child(tmp_path, outcomes).wait()
    assert (child.status, child.said.strip()) == (0, "[]")
