"""tutorials/search.py draws from the paper's ranges, goes on where it was, and ends with a table and a picture."""

import concurrent.futures
import csv
import math

import pytest
from conftest import random_drawings

import koch
from tutorials import search


@pytest.mark.parametrize("size, n", [(35, 8), (105, 6)])
def test_a_trial_has_values_for_every_layer_in_the_papers_ranges_and_the_same_ones_again(size, n):
    for number in range(40):
        near = search.draw(7, size) if number >= 20 else None
        values = search.draw(number, size, near)
        assert list(values) == list(search.RANGES) and values == search.draw(number, size, near)
        koch.settle(koch.Config(size=size, recipe="paper", **values))
        for name, (low, high) in search.RANGES.items():
            assert all(low <= value <= high for value in koch.by_layer(values[name], n))
        shared = len(set(koch.by_layer(values["learning_rates"], n))) == 1
        assert shared == (number % 2 == 0 and near is None)
    etas = [koch.by_layer(search.draw(number, size)["learning_rates"], n)[-1] for number in range(400)]
    below = sum(eta < 10**-2.5 for eta in etas)
    assert below == pytest.approx(200, abs=50)  # half of them, below the middle of the logs


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A search whose trainings are a formula: the nearer the first layer's rate is to 0.01, the better."""
    calls = []

    def score(number, steps, values, options):
        calls.append(number)
        accuracy = 1 / (1 + abs(math.log(float(values["learning_rates"].split(",")[0]) / 0.01)))
        return {"trial": number, "steps": steps, "validation": accuracy, "loss": 1.0} | values

    monkeypatch.setattr(search, "score", score)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", concurrent.futures.ThreadPoolExecutor)
    return tmp_path / "runs" / "search.csv", calls


def test_a_stopped_search_goes_on_where_it_was(scored):
    path, calls = scored
    search.search(path, 6, 0, 200, 1, {"size": 35})
    assert sorted(calls) == [0, 1, 2, 3, 4, 5]
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n")  # stopped after three
    done = {int(line.split(",")[0]) for line in lines[1:4]}
    calls.clear()
    rows = search.search(path, 6, 3, 200, 1, {"size": 35})
    assert sorted(calls) == sorted({0, 1, 2, 3, 4, 5} - done) + [6, 7, 8]
    assert len(list(csv.DictReader(path.open()))) == 9
    accuracies = [float(row["validation"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    calls.clear()
    assert search.search(path, 6, 3, 200, 1, {"size": 35}) == rows and calls == []


def test_the_command_ends_with_a_ranked_table(scored, monkeypatch, capsys):
    path, _ = scored
    monkeypatch.setattr("sys.argv", ["search.py", "--trials", "4", "--near", "2", "--results", str(path)])
    search.main()
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "|" in line][1:] == [str(i) for i in range(1, 7)]


def test_a_trial_is_scored_on_validation_drawings_alone(monkeypatch):
    world = random_drawings((4,) * 50, 20, 35)
    monkeypatch.setattr(koch, "load_data", lambda config: (world, "invented"))
    monkeypatch.setattr(search, "N_TRIALS", 10)
    seen, accuracy = [], koch.one_shot_accuracy
    monkeypatch.setattr(koch, "one_shot_accuracy", lambda net, trials: seen.append(trials) or accuracy(net, trials))
    row = search.score(1, 3, search.draw(1, 35), {"size": 35, "pairs": 16})
    assert row["trial"] == 1 and 0 <= row["validation"] <= 1 and row["loss"] > 0
    theirs = world.images[(world.alphabet >= 30) & (world.alphabet < 40)][:, 12:16].flatten(0, 1)
    assert seen[-1].images.equal(theirs) and len(seen[-1].answers) == 10
