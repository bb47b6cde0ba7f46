"""The commands as a user types them: a whole tiny training, going on after a stop, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, random_drawings
from PIL import Image

import koch
from reference_numpy import files
from tutorials import pictures, uses

TINY = ["--data", "invented", "--size", "35", "--device", "cpu", "--steps", "6", "--validations", "2", "--warmup", "2"]
TINY += ["--alphabets", "2", "--characters", "4"]


def command(*arguments, folder):
    """Return the command line and its environment: no KOCH_DATA, so that nothing but the folder plays a part."""
    environment = {key: value for key, value in os.environ.items() if key != "KOCH_DATA"}
    return {"args": [sys.executable, str(ROOT / "koch.py"), *map(str, arguments)], "cwd": folder, "env": environment}


def koch_py(*arguments, folder):
    return subprocess.run(**command(*arguments, folder=folder), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a finished tiny training on invented alphabets, runs/tiny, and what it said."""
    folder = tmp_path_factory.mktemp("workplace")
    done = koch_py("train", *TINY, "--name", "tiny", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def inside(workplace, monkeypatch):
    """The test runs inside the workplace, in this process and with few test trials: a training takes seconds."""
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("KOCH_DATA", raising=False)
    monkeypatch.setattr(files.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(koch, "N_FRESH", 60)
    monkeypatch.setattr(koch, "N_PAIRS", 200)
    monkeypatch.setattr(uses, "N_SWEEP", 60)
    return workplace


def refuse(*_, **__):
    raise files.urllib.error.URLError("no network")


def same_weights(a, b):
    a, b = (torch.load(f"runs/{name}/last.pt", weights_only=True)["net"] for name in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def results_of(name):
    return json.loads((Path("runs") / name / "results.json").read_text())


def test_a_training_leaves_two_checkpoints_results_log_and_pictures(workplace):
    run = workplace / "runs" / "tiny"
    wanted = {"best.pt", "last.pt", "results.json", "log.csv", "curves.png", "trials.png", "verification.png"}
    assert {path.name for path in run.iterdir()} == wanted
    results = json.loads((run / "results.json").read_text())
    assert (results["config"]["data"], results["config"]["seed"]) == ("invented", 0)
    assert results["torch"] == torch.__version__
    assert results["within"]["n"] == results["across"]["n"] == koch.N_FRESH and results["seconds"] > 0
    assert len((run / "log.csv").read_text().splitlines()) == 7  # the names and six steps
    assert {p.name for p in workplace.iterdir()} >= {"data", "runs"}


def test_a_figure_on_invented_trials_never_stands_beside_the_papers(workplace):
    said = (workplace / "said.txt").read_text()
    assert "invented alphabets, within one alphabet" in said and "no real data" in said
    assert "paper" not in said and "92.0" not in said and "Lake" not in said


def test_oneshot_repeats_the_figures_of_the_newest_checkpoint(workplace):
    again = koch_py("oneshot", "--device", "cpu", folder=workplace)
    assert again.returncode == 0, again.stderr
    table = (workplace / "said.txt").read_text()
    table = table[table.index("2,000 fresh trials") : table.index("in runs/tiny")]
    assert table.strip() in again.stdout


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(inside):
    assert koch.main(["train", *TINY, "--name", "again"]) == 0
    assert koch.main(["train", *TINY, "--name", "other", "--seed", "1"]) == 0
    assert same_weights("tiny", "again") and not same_weights("tiny", "other")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [3, 4, 5])  # the first validation comes with step 4
def test_a_stopped_training_goes_on_to_the_very_same_end(inside, number, at, monkeypatch, capsys):
    name, options, handler = f"stopped{number}at{at}", [*TINY, "--steps", "8"], signal.getsignal(number)
    if not Path("runs/whole").exists():
        assert koch.main(["train", *options, "--name", "whole"]) == 0
    step = koch.training_step
    with monkeypatch.context() as patched:
        patched.setattr(koch, "training_step", lambda *a: (a[3] == at - 1 and signal.raise_signal(number), step(*a))[1])
        assert koch.main(["train", *options, "--name", name]) == 128 + number
    assert f"--resume runs/{name}" in capsys.readouterr().out
    assert {path.name for path in Path("runs", name).iterdir()} == {"last.pt"} | ({"best.pt"} if at > 3 else set())
    assert torch.load(f"runs/{name}/last.pt", weights_only=True)["step"] == at
    assert koch.main(["train", "--resume", f"runs/{name}"]) == 0
    assert same_weights("whole", name)
    whole, resumed = results_of("whole"), results_of(name)
    assert all(whole[key] == resumed[key] for key in ("within", "across", "validation", "best_step"))
    assert signal.getsignal(number) == handler  # a training puts back what it found


def test_ctrl_c_ends_a_real_training_with_one_line_and_a_checkpoint(workplace):
    log = workplace / "log.txt"
    with open(log, "w") as file:
        options = [*TINY, "--steps", "100000", "--validations", "50000", "--name", "real"]
        process = subprocess.Popen(**command("train", *options, folder=workplace), stdout=file, stderr=file)
        deadline = time.monotonic() + 120
        while not (workplace / "runs" / "real" / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    assert "--resume runs/real" in log.read_text() and "Traceback" not in log.read_text()


BAD = {
    "no command": ([], "required"),
    "unknown option": (["train", "--stepz", "3"], "--stepz"),
    "abbreviated option": (["train", "--step", "3"], "--step"),
    "not a number": (["train", "--steps", "many"], "many"),
    "no steps": (["train", "--steps", "-1"], "--steps is at least 0"),
    "not a learning rate": (["train", "--learning-rate", "nan"], "--learning-rate"),
    "unknown data": (["train", "--data", "mnist2"], "no data set or folder mnist2; name a folder of pictures or omni"),
    "a test set to train on": (["train", "--data", "mnist"], "oneshot --data mnist"),
    "paper and softmax": (["train", "--recipe", "paper", "--loss", "softmax"], "single pairs"),
    "too few rates": (["train", "--recipe", "paper", "--size", "35", "--learning-rates", "1,2"], "8 numbers"),
    "one image": (["verify", "runs/tiny/best.pt", "a.png"], "two images"),
    "an image that is not there": (["verify", "runs/tiny/best.pt", "a.png", "b.png"], "a.png"),
    "no support": (["classify", "--support", "nowhere", "a.png"], "nowhere"),
    "no ways": (["oneshot", "--way", "0"], "--way"),
    "one way": (["oneshot", "runs/tiny/best.pt", "--way", "1"], "1-way"),
    "too many ways": (["oneshot", "runs/tiny/best.pt", "--way", "5,99"], "99-way"),
    "no MNIST": (["oneshot", "runs/tiny/best.pt", "--data", "mnist", "--data-dir", "empty"], "t10k-images"),
    "no faces": (["train", "--data", "faces", "--data-dir", "empty"], "att_faces.zip"),
    "too many characters": (["train", *TINY, "--characters", "41"], "--characters"),
    "a path as a name": (["train", *TINY, "--name", "../x"], "--name"),
    "a taken name": (["train", *TINY, "--name", "tiny"], "--resume runs/tiny"),
    "no checkpoint": (["oneshot", "runs/none/best.pt"], "runs/none/best.pt"),
    "no checkpoint file": (["oneshot", "said.txt"], "said.txt is not a checkpoint"),
    "half a checkpoint": (["oneshot", "half.pt"], "half.pt is not a checkpoint"),
    "another size": (["oneshot", "other_size.pt"], "other_size.pt"),
    "nothing to resume": (["train", "--resume", "runs/none"], "runs/none/last.pt"),
    "resume a best.pt": (["train", "--resume", "best_only"], "best_only/last.pt"),
    "resume with options": (["train", "--resume", "runs/tiny", "--steps", "9"], "--resume"),
    "empty data folder": (["train", "--data-dir", "empty", "--steps", "1"], "all_runs.zip into empty"),
}


@pytest.mark.parametrize("arguments, said", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_status_2(inside, arguments, said, capsys):
    whole = (inside / "runs" / "tiny" / "best.pt").read_bytes()
    (inside / "half.pt").write_bytes(whole[: len(whole) // 2])
    state = torch.load("runs/tiny/best.pt", weights_only=True)
    state["config"]["size"] = 105
    torch.save(state, "other_size.pt")
    for name in ("empty", "best_only"):
        (inside / name).mkdir(exist_ok=True)
    (inside / "best_only" / "last.pt").write_bytes(whole)
    before = sorted(str(path) for path in inside.rglob("*"))
    try:
        status = koch.main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert said in error and len(error.strip().splitlines()) == 1 and "Traceback" not in error
    assert sorted(str(path) for path in inside.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(inside, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "best.pt")

    monkeypatch.setattr(koch.terminal.os, "replace", full)
    assert koch.main(["train", *TINY, "--name", "full"]) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said and len(said.strip().splitlines()) == 1
    assert list((inside / "runs" / "full").iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_training_in_one_line(inside, monkeypatch, capsys):
    monkeypatch.setattr(koch, "training_step", lambda *_: torch.tensor(float("nan")))
    assert koch.main(["train", *TINY, "--name", "nan"]) == 2
    assert "lower --learning-rate" in capsys.readouterr().err
    assert not (inside / "runs" / "nan").exists()


def test_help_shows_the_source_of_every_value(capsys):
    with pytest.raises(SystemExit) as stop:
        koch.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for field in koch.dataclasses.fields(koch.Config):
        assert f"--{field.name.replace('_', '-')}" in said
    assert "§3.2" in said and "ours:" in said and "deviates:" in said


def test_the_papers_recipe_goes_on_after_a_stop_to_the_very_same_end(inside, monkeypatch):
    options = [*TINY, "--recipe", "paper", "--pairs", "16", "--batch", "4", "--distort", "--steps", "8"]
    assert koch.main(["train", *options, "--name", "paper"]) == 0
    results = results_of("paper")
    assert results["epochs"] == pytest.approx(8 / 36) and results["config"]["loss"] == "bce"
    assert results["verification"]["n"] == 200 and 0 <= results["verification"]["accuracy"] <= 1
    step = koch.training_step
    with monkeypatch.context() as patched:
        patched.setattr(koch, "training_step", lambda *a: (a[3] == 4 and signal.raise_signal(2), step(*a))[1])
        assert koch.main(["train", *options, "--name", "paper2"]) == 130
    assert koch.main(["train", "--resume", "runs/paper2"]) == 0
    assert same_weights("paper", "paper2")
    assert results_of("paper2")["verification"] == results["verification"]


def test_verify_repeats_the_figures_of_the_training_and_draws_them(inside, capsys):
    assert koch.main(["train", *TINY, "--loss", "contrastive", "--name", "apart"]) == 0
    first = capsys.readouterr().out
    (inside / "runs/apart/verification.png").unlink()
    assert koch.main(["verify", "runs/apart/best.pt"]) == 0
    said = capsys.readouterr().out
    figures = [line for line in said.splitlines() if line.startswith(("  this net", "  area under"))]
    assert len(figures) == 2 and all(line in first for line in figures)
    assert "the paper" not in said  # these pairs are invented
    assert (inside / "runs/apart/verification.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def own(tmp_path_factory, invented):
    """A folder of twelve classes of three pictures each, ink dark on light paper, as a user would have it."""
    folder = tmp_path_factory.mktemp("own")
    for c in range(12):
        (folder / f"sign{c:02}").mkdir()
        for d in range(3):
            pixels = (1 - invented.images[40 * c, d].numpy()) * 255
            Image.fromarray(pixels).resize((70, 70)).save(folder / f"sign{c:02}" / f"{d}.png")
    return folder


def test_two_images_are_said_to_be_the_same_or_not_with_p_and_the_threshold(inside, own, capsys):
    one, other = own / "sign00/0.png", own / "sign01/0.png"
    assert koch.main(["verify", "runs/tiny/best.pt", str(one), str(one)]) == 0
    said = capsys.readouterr().out
    assert "the same character: p = " in said or "different characters: p = " in said
    net = koch.load_checkpoint("runs/tiny/best.pt")
    bias, threshold = net.join.bias.sigmoid().item(), uses.probability(net.threshold)
    assert f"sigmoid(bias) = {bias:.4f}" in said and f"p = {threshold:.4f}" in said
    assert float(re.search(r"character[s]?: p = ([\d.]+)", said)[1]) == pytest.approx(bias, abs=2e-4)
    assert koch.main(["verify", "runs/tiny/best.pt", str(one), str(other)]) == 0
    assert f"p = {bias:.4f};" not in capsys.readouterr().out


def test_a_sweep_has_a_row_for_every_way_and_shot_within_and_across(inside, capsys):
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--way", "5,2", "--shot", "1,3"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "-way" in line]
    assert [row.split("shot")[0].strip() for row in rows] == [
        f"{where}, {way}-way, {shot}-"
        for where in ("within an alphabet", "across alphabets") for way in (2, 5) for shot in (1, 3)
    ]  # fmt: skip
    assert (inside / "runs/tiny/sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_the_baselines_take_the_trials_without_a_net(inside, capsys):
    for name, said in (("pixels", "pixel 1-NN (cosine)"), ("hausdorff", "modified Hausdorff distance")):
        assert koch.main(["oneshot", "--data", "invented", "--baseline", name]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  {said}")]
        assert len(lines) >= 2 and all(float(line.split("%")[0].split()[-1]) > 8 for line in lines)  # chance is 5


def classified(capsys, *arguments):
    assert koch.main(["classify", "--checkpoint", "runs/tiny/best.pt", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_classify_ranks_all_classes_whatever_the_order_of_files_and_images(inside, own, capsys, monkeypatch):
    images = [own / "sign03/2.png", own / "sign07/1.png"]
    both = classified(capsys, "--support", own, *images)
    assert [entry["image"] for entry in both] == list(map(str, images))
    for entry in both:
        assert {answer["class"] for answer in entry["answers"]} == {f"sign{c:02}" for c in range(12)}
        p = [answer["p"] for answer in entry["answers"]]
        assert p == sorted(p, reverse=True) and all(0 <= value <= 1 for value in p)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(iterdir(folder), reverse=True)))
    assert classified(capsys, "--support", own, *images[::-1]) == both[::-1]
    assert Image.open("runs/classify.png").width > 100


def test_removing_a_file_removes_a_class_and_changes_no_other(inside, own, capsys):
    query = own / "sign03/2.png"
    before = classified(capsys, "--support", own, query)[0]["answers"]
    shutil.rmtree(own / "sign05")
    after = classified(capsys, "--support", own, query)[0]["answers"]
    assert [a["class"] for a in after] == [a["class"] for a in before if a["class"] != "sign05"]
    p = {a["class"]: a["p"] for a in before}
    assert all(a["p"] == pytest.approx(p[a["class"]], rel=1e-4) for a in after)


def test_classify_says_what_it_found_and_where_the_picture_is(inside, own, capsys):
    arguments = ["classify", "--support", str(own), str(own / "sign00/0.png"), "--picture", "ranking.png"]
    assert koch.main([*arguments, "--checkpoint", "runs/tiny/best.pt"]) == 0
    said = capsys.readouterr().out
    assert "36 pictures of 12 classes; ink is dark in 36 of 36" in said and "(p = 0." in said
    assert said.strip().endswith("picture: ranking.png") and Path("ranking.png").stat().st_size > 1000


def test_a_folder_of_pictures_trains_a_net_and_is_a_test_set_for_another(inside, own, capsys):
    few = ["--drawings", "2", "--characters", "3"]
    assert koch.main(["train", *TINY, *few, "--data", str(own), "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert "8 training, 2 validation, 2 test characters" in said and "chance (2-way)" in said
    assert koch.main(["oneshot", "runs/mine/best.pt"]) == 0
    assert "chance (2-way)" in capsys.readouterr().out  # the two classes that it was not trained on
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--data", str(own)]) == 0
    assert "chance (12-way)" in capsys.readouterr().out  # this net has seen none of them


def test_without_a_checkpoint_the_projects_own_weights_are_used_and_named(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    query = str(own / "sign00/1.png")
    assert koch.main(["verify", query, str(own / "sign00/2.png")]) == 0
    assert "tutorials/weights/reduced.pt: 988,865 parameters, trained on omniglot" in capsys.readouterr().out
    assert koch.main(["classify", "--support", str(own), query]) == 0
    assert f"{query}: sign00 (p = " in capsys.readouterr().out  # it is right
    assert uses.WEIGHTS.stat().st_size < 5e6 and uses.WEIGHTS.with_suffix(".txt").read_text().startswith("reduced.pt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("size", ["35", "105"])
def test_both_recipes_train_and_are_tested_on_cuda(inside, recipe, size):
    options = [*TINY, "--recipe", recipe, "--size", size, "--device", "cuda", "--pairs", "64", "--distort"]
    name = f"cuda-{recipe}-{size}"
    assert koch.main(["train", *options, "--name", name]) == 0
    assert 0 <= results_of(name)["within"]["accuracy"] <= 1
    assert koch.main(["oneshot", f"runs/{name}/best.pt", "--way", "5"]) == 0
    assert koch.main(["verify", f"runs/{name}/best.pt"]) == 0


def test_a_tie_can_be_drawn(tmp_path):
    trials = koch.one_shot_trials(random_drawings(), 20, 30, torch.Generator().manual_seed(0))
    pictures.draw_trials(koch.as_arrays(trials), torch.full((30,), -1).numpy(), tmp_path / "trials.png")
    assert (tmp_path / "trials.png").read_bytes()[:4] == b"\x89PNG"


def test_lakes_trials_with_the_full_net_take_under_ten_seconds(data_dir):
    lake, net = koch.as_tensors(files.lake_runs(data_dir)), koch.SiameseNet(105)
    net.precision = koch.settle(koch.Config(device="cpu")).precision
    if net.precision != "bfloat16" or torch.get_num_threads() < 2:
        pytest.skip("the ten seconds are for two cores that compute in bfloat16")
    started = time.perf_counter()
    answers = koch.one_shot_answers(net, lake)
    assert time.perf_counter() - started < 10 and len(answers) == 400
