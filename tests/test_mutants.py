"""The tests of reference_numpy reject each of the mistakes planted in mutants.py, and nothing without a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mutants
import pytest
from mutants import MUTANTS, control, patched

CONTROLS = [control(file) for file in ("convolution", "layers", "network", "gradcheck")]  # the rest run the same
CONTROLS += [control("convolution", "race"), control("jit", "race"), control("network", "kept")]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")


def name_of(mutant):
    return f"{mutant.file}-{mutant.mistake}".replace(" ", "_") + ("-" + mutant.how if mutant.how else "")


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """Try all mutants that were asked for, in one process that forks: {name: outcome}."""
    here = [item for item in request.session.items if item.path == request.path and "outcomes" in item.fixturenames]
    selected = [item.callspec.params["mutant"] for item in here]
    folder = tmp_path_factory.mktemp("mutants")
    (folder / "wanted").write_text(json.dumps(selected))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    for unwanted in ("NUMBA_DISABLE_JIT", "PYTHONDONTWRITEBYTECODE"):  # the tests are compiled once, not by each mutant
        environment.pop(unwanted, None)
    command = [sys.executable, mutants.__file__, str(folder / "wanted"), str(folder / "outcomes")]
    done = subprocess.run(command, env=environment, cwd=Path(mutants.__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(map(name_of, selected), json.loads((folder / "outcomes").read_text()), strict=True))


@pytest.mark.parametrize("mutant", CONTROLS, ids=name_of)
def test_without_a_mistake_the_same_tests_pass(outcomes, mutant):
    assert outcomes[name_of(mutant)]["status"] == 0, outcomes[name_of(mutant)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_the_tests_reject(outcomes, mutant):
    outcome = outcomes[name_of(mutant)]
    assert outcome["status"] == 1, outcome  # 0: they passed; all else: they could not be run
    assert outcome["failure"]["when"] == "call", outcome
    assert outcome["failure"]["error"] not in ("NameError", "SyntaxError", "ImportError", "UnboundLocalError"), outcome


def test_each_mistake_stands_for_one_piece_of_text_and_has_a_name_of_its_own():
    assert len({name_of(mutant) for mutant in MUTANTS}) == len(MUTANTS) >= 55
    for mutant in MUTANTS:
        assert patched(mutant) != (mutants.PACKAGE / f"{mutant.file}.py").read_text()
        compile(patched(mutant), mutant.file, "exec")
    with pytest.raises(ValueError, match="0 times"):
        patched(MUTANTS[0]._replace(old="no such text"))
