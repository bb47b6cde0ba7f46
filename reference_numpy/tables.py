"""What results look like on the screen, beside the paper's figures; every fraction is in 0..1."""

from .measures import wilson_interval

PAPER_LAKE, PEOPLE_LAKE = 0.92, 0.955  # §4.3: Lake's 400 trials, 20-way, within an alphabet
PAPER_VERIFICATION = 0.9342  # §4.2: 150,000 pairs with distortions
PAPER_MNIST, PIXELS_MNIST = 0.703, 0.265  # §4.4
WHERE = {"omniglot": "the ten test alphabets", "invented": "ten invented alphabets", "faces": "eight faces"}
SEEN = {"omniglot": "trained on Omniglot", "invented": "no real data: trained on invented alphabets"}


def print_title(text):
    print(f"\n{text:<60}  right   95 % interval")


def print_result(name, accuracy, interval=None, note=""):
    """Print a row: what was measured, percent right, the 95 % interval."""
    low_high = f"{100 * interval[0]:8.1f} .. {100 * interval[1]:.1f}" if interval else ""
    print(f"  {name:<58}{100 * accuracy:6.2f} %{low_high}{note}")


def print_verification(result, net, data):
    """Print the test pairs' figures; net: the net's name; the paper's figure stands beside those on Omniglot alone."""
    print_title(f"{result['n']:,} pairs of {WHERE.get(data, data)}, half of them the same")
    if data == "omniglot":
        print_result("the paper's net, its best (1.35 million pairs)", PAPER_VERIFICATION)
    print_result(net, result["accuracy"], result["interval"])
    print_result("chance", 0.5)
    equal = f"equal error rate {100 * result['equal_error_rate']:.2f} %"
    print(f"  area under the ROC curve {result['area']:.4f}, {equal}, threshold {result['threshold']:.2f} (a logit)")


def print_trials(results, net, data):
    """Print one-shot results {"lake", "within", "across"}; the paper's figures stand beside those on Lake's alone."""
    for key, result in results.items():
        fresh = f"{result['n']:,} fresh trials of {WHERE.get(data, data)}"
        title = "Lake's 400 one-shot trials" if key == "lake" else fresh
        inside = {"across": ", across alphabets"}.get(key, ", within one alphabet")
        print_title(title + (inside if len(result["alphabets"]) > 1 else ""))
        if key == "lake":
            print_result("people", PEOPLE_LAKE)
            print_result("the paper's convolutional siamese net", PAPER_LAKE, wilson_interval(368, 400))
        print_result(net, result["accuracy"], result["interval"])
        if net != "pixel 1-NN (cosine)":
            print_result("pixel 1-NN (cosine)", result["pixels"])
        print_result(f"chance ({round(1 / result['chance'])}-way)", result["chance"])
    alphabets = results["within"]["alphabets"]
    if len(alphabets) < 2:
        return
    print("\nright by alphabet" + " " * 24 + "".join(f"{key:>11}" for key in results))
    for name in alphabets:
        counts = [result["alphabets"].get(name) for result in results.values()]
        print(f"  {name:<39}" + "".join(f"{f'{c[0]}/{c[1]}' if c else '-':>11}" for c in counts))


def print_mnist(result, net):
    """Print §4.4's figures."""
    print_title(f"MNIST, {len(result['draws'])} draws of {result['n']} trials, 10-way, no fine-tuning")
    print_result("the paper's reduced net (one draw)", PAPER_MNIST, wilson_interval(281, 400))
    print_result(net, result["accuracy"], result["interval"])
    print_result("the same with ink and paper exchanged: wrong polarity", result["wrong_polarity"])
    print_result("pixel 1-NN (cosine)", result["pixels"], note=f"      the paper has {100 * PIXELS_MNIST}")
    print_result("chance (10-way)", 0.1)
    print("  this net's draws: " + ", ".join(f"{100 * accuracy:.2f}" for accuracy in result["draws"]))


def print_sweep(rows):
    """Print rows of {where, way, shot, n, accuracy, low, high, pixels, chance}."""
    print(f"\n{rows[0]['n']:,} fresh trials each" + " " * 39 + "right   95 % interval    1-NN  chance")
    for row in rows:
        note = f"{100 * row['pixels']:8.2f}{100 * row['chance']:8.1f}"
        where = {"within": "within an alphabet", "across": "across alphabets"}[row["where"]]
        title = f"{where}, {row['way']}-way, {row['shot']}-shot"
        print_result(title, row["accuracy"], (row["low"], row["high"]), note)
