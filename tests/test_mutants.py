"""The tests of reference_numpy reject each of the mistakes planted in mutants.py, and nothing without a mistake."""

import os
import subprocess
import sys

import mutants
import pytest
from mutants import MUTANTS, patched


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_the_tests_reject_all_planted_mistakes_and_pass_without_one():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    for unwanted in ("NUMBA_DISABLE_JIT", "PYTHONDONTWRITEBYTECODE"):  # compiled once, not by each mutant
        environment.pop(unwanted, None)
    command = [sys.executable, mutants.__file__]
    done = subprocess.run(command, env=environment, cwd=mutants.TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(MUTANTS)} of {len(MUTANTS)} planted mistakes were rejected" in done.stdout


def test_each_mistake_stands_for_one_piece_of_text_and_has_a_name_of_its_own():
    assert len({(mutant.file, mutant.mistake) for mutant in MUTANTS}) == len(MUTANTS) == 131
    for mutant in MUTANTS:
        assert patched(mutant) != mutants.source(mutant.file).read_text(encoding="utf-8")
        compile(patched(mutant), mutant.file, "exec")
    with pytest.raises(ValueError, match="0 times"):
        patched(MUTANTS[0]._replace(old="no such text"))
