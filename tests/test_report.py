"""The report: its figures are the metrics', bad inputs are refused by name, odd data give right figures."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
import torch

from swag import metrics
from swag.errors import FileError, InputError
from swag.predictive import CategoricalPredictive, GaussianPredictive
from swag.report import Report


def probabilities(n, n_classes=4, strength=1.5, seed=0, labels=None):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, n_classes, generator=generator)
    if labels is not None:
        logits[torch.arange(n), labels] += strength
    return torch.softmax(logits, dim=1)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (240,), generator=generator)

    def members(strength, n=240, y=None):
        logits = torch.randn(5, n, 4, generator=generator)
        if y is not None:
            logits[:, torch.arange(n), y] += strength
        return CategoricalPredictive.from_logits(logits)

    validation_labels = torch.randint(4, (100,), generator=generator)
    return {
        "predictions": {
            "SGD": probabilities(240, seed=3, labels=labels),
            "SWAG": members(0.7, y=labels),
            "Ensemble": members(0.4, y=labels),
        },
        "labels": labels,
        "ood": {
            "far": {"SGD": probabilities(90, seed=5), "SWAG": members(0, 90), "Ensemble": members(0, 90)},
            "near": {"SWAG": members(0, 60), "Ensemble": members(0, 60)},
        },
        "validation": {
            "SGD": probabilities(100, seed=8, labels=validation_labels),
            "SWAG": members(0.7, 100, validation_labels),
        },
        "validation_labels": validation_labels,
    }


@pytest.fixture(scope="module")
def report(data):
    return Report(data["predictions"], data["labels"], ood=data["ood"], n_bootstrap=200)


def of(output):
    return getattr(output, "probs", output)


# Figures


def test_figures_are_those_of_the_metrics(report, data):
    y = data["labels"]
    for method, output in data["predictions"].items():
        scores, p = report.results.scores[method], of(output)
        assert scores["accuracy"].value == pytest.approx(metrics.accuracy(p, y), rel=1e-12)
        assert scores["nll"].value == pytest.approx(metrics.nll(p, y), rel=1e-6)
        assert scores["brier"].value == pytest.approx(metrics.brier(p, y), rel=1e-9)
        assert scores["ece"].value == pytest.approx(metrics.ece(p, y, 15), rel=1e-9)
        assert scores["aurc"].value == pytest.approx(metrics.aurc(p, y), rel=1e-9)
        curve = metrics.reliability_curve(p, y, 15)
        shown = report.results.classification.reliability[method]
        assert shown.counts == curve.counts and shown.edges == pytest.approx(curve.edges)
        for ours, theirs in ((shown.confidence, curve.confidence), (shown.accuracy, curve.accuracy)):
            assert all(
                math.isnan(b) if a is None else a == pytest.approx(b)
                for a, b in zip(ours, theirs, strict=True)
            )
        for estimate in scores.values():
            if estimate.value is not None:
                assert estimate.low <= estimate.value <= estimate.high


def test_out_of_distribution_figures_are_those_of_the_metrics(report, data):
    far, near = report.results.classification.ood
    for ood in (far, near):
        for method, by_score in ood.scores.items():
            inside, outside = data["predictions"][method], data["ood"][ood.name][method]
            pairs = {
                "entropy": [metrics.entropy(of(output)) for output in (inside, outside)],
                "max_prob": [metrics.max_probability_score(of(output)) for output in (inside, outside)],
            }
            if method != "SGD":
                pairs["mutual_information"] = [output.mutual_information for output in (inside, outside)]
                pairs["energy"] = [output.energy for output in (inside, outside)]
                pairs["max_logit"] = [-output.max_logit for output in (inside, outside)]
            assert set(by_score) == set(pairs)
            for score, (s_in, s_out) in pairs.items():
                found = {measure: estimate.value for measure, estimate in by_score[score].items()}
                assert found["auroc"] == pytest.approx(metrics.auroc(s_in, s_out), abs=1e-3)
                assert found["aupr"] == pytest.approx(metrics.aupr(s_in, s_out), abs=1e-3)
                assert found["fpr95"] == pytest.approx(metrics.fpr_at_tpr(s_in, s_out), abs=0.02)
    scores = report.results.scores
    assert scores["SWAG"]["auroc_far"] == dataclasses.replace(
        far.scores["SWAG"]["entropy"]["auroc"], mark=scores["SWAG"]["auroc_far"].mark
    )
    assert scores["SGD"]["auroc_near"].value is None and "SGD" not in near.scores


def test_temperatures_are_fitted_on_validation_rows_and_scored_on_test_rows(data):
    report = Report(
        data["predictions"],
        data["labels"],
        validation=data["validation"],
        validation_labels=data["validation_labels"],
        n_bootstrap=50,
    )
    temperature = metrics.fit_temperature(data["validation"]["SGD"], data["validation_labels"])
    scaled = torch.softmax(data["predictions"]["SGD"].double().log() / temperature, dim=1)
    scores = report.results.scores
    assert scores["SGD"]["nll_temperature"].value == pytest.approx(metrics.nll(scaled, data["labels"]))
    assert scores["Ensemble"]["nll_temperature"].value is None
    assert set(report.results.classification.temperatures) == {"SGD", "SWAG"}
    assert report.results.classification.temperatures["SGD"] == pytest.approx(temperature)


def test_regression_figures_are_those_of_the_metrics():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(150, generator=generator, dtype=torch.float64)
    means = 0.3 * torch.randn(6, 150, generator=generator, dtype=torch.float64)
    variances = 0.5 + torch.rand(6, 150, generator=generator, dtype=torch.float64)
    predictive = GaussianPredictive(means, variances)
    single = GaussianPredictive(means[:1], variances[:1])
    results = Report({"one": single, "six": predictive}, y, n_bootstrap=100).results
    found = {key: estimate.value for key, estimate in results.scores["six"].items()}
    assert found["nll"] == pytest.approx(metrics.mixture_nll(means, variances, y))
    assert found["nll_gaussian"] == pytest.approx(
        metrics.gaussian_nll(predictive.mean, predictive.variance, y)
    )
    assert found["rmse"] == pytest.approx(metrics.rmse(predictive.mean, y))
    assert found["crps"] == pytest.approx(metrics.mixture_crps(means, variances, y))
    pit = metrics.mixture_pit(means, variances, y)
    assert found["calibration_error"] == pytest.approx(metrics.pit_calibration_error(pit))
    low, high = predictive.quantile(0.025), predictive.quantile(0.975)
    assert found["coverage"] == pytest.approx(metrics.interval_coverage(low, high, y))
    assert found["width"] == pytest.approx(metrics.interval_width(low, high))
    one = results.scores["one"]
    assert one["crps"].value == pytest.approx(metrics.crps(means[0], variances[0], y))
    assert one["coverage"].value == pytest.approx(metrics.coverage(means[0], variances[0], y))
    assert results.differences["six"]["nll"].verdict in {"better", "no difference"}
    assert "coverage" not in results.differences["six"]  # neither way is better by itself
    assert sum(results.regression.pit["six"].fractions) == pytest.approx(1)
    spread = results.regression.spread["six"]
    assert spread["variance"] == pytest.approx(spread["aleatoric"] + spread["epistemic"])


def test_regression_without_members_says_what_it_falls_back_on():
    @dataclasses.dataclass
    class Moments:
        mean: torch.Tensor
        variance: torch.Tensor

    y = torch.randn(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, variance = torch.zeros(80), torch.ones(80)
    report = Report({"moments": Moments(mean, variance)}, y, n_bootstrap=50)
    scores = report.results.scores["moments"]
    assert scores["nll"].value is None if "nll" in scores else True
    assert scores["nll_gaussian"].value == pytest.approx(metrics.gaussian_nll(mean, variance, y))
    assert scores["crps"].value == pytest.approx(metrics.crps(mean, variance, y))
    assert any("members were not kept" in note for note in report.results.notes)
    assert "NLL (Gaussian)" in str(report)


def test_log_probabilities_save_an_underflowed_row():
    logits = torch.tensor([[0.0, 200.0]] * 30 + [[200.0, 0.0]] * 30)
    labels = torch.zeros(60, dtype=torch.long)
    exact = Report({"m": CategoricalPredictive.from_logits(logits)}, labels, n_bootstrap=50).results
    rounded = Report({"m": torch.softmax(logits, 1)}, labels, n_bootstrap=50).results
    assert exact.scores["m"]["nll"].value == pytest.approx(100.0)
    assert rounded.scores["m"]["nll"].value == math.inf
    assert rounded.scores["m"]["nll"].infinite_rows == 30


# Reproducible and private randomness


def test_same_seed_same_bytes_and_other_seed_other_intervals(data, tmp_path):
    def build(seed):
        return Report(data["predictions"], data["labels"], ood=data["ood"], n_bootstrap=60, seed=seed)

    first, again, other = build(4), build(4), build(5)
    for suffix in (".json", ".html", ".md", ".csv"):
        a, b = first.save(tmp_path / f"a{suffix}"), again.save(tmp_path / f"b{suffix}")
        assert a.read_bytes() == b.read_bytes()
    assert first.results.scores["SGD"]["nll"].low != other.results.scores["SGD"]["nll"].low
    assert first.results.scores["SGD"]["nll"].value == other.results.scores["SGD"]["nll"].value


def test_the_global_generators_are_left_alone(data):
    np.random.seed(0)
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    Report(data["predictions"], data["labels"], n_bootstrap=20).to_html()
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(
        torch.random.get_rng_state(), state[1]
    )


def test_a_method_has_the_same_figures_whatever_stands_beside_it(data):
    alone = Report({"SWAG": data["predictions"]["SWAG"]}, data["labels"], n_bootstrap=100).results
    beside = Report(data["predictions"], data["labels"], n_bootstrap=100).results
    for key, estimate in alone.scores["SWAG"].items():
        assert estimate == dataclasses.replace(beside.scores["SWAG"][key], mark="")


# Bad input


def uniform(n, c):
    return torch.full((n, c), 1 / c)


BAD = {
    "an empty dict": (lambda: Report({}, [0]), "predictions.*empty"),
    "no dict": (lambda: Report(uniform(2, 2), [0, 1]), "predictions.*pass a dict"),
    "a name that is no string": (lambda: Report({1: uniform(2, 2)}, [0, 1]), "predictions: 1"),
    "fewer labels": (lambda: Report({"A": uniform(3, 2)}, [0, 1]), "labels has 2 rows"),
    "labels out of range": (lambda: Report({"A": uniform(2, 2)}, [0, 2]), r"labels row 1 is 2"),
    "labels that are no integers": (lambda: Report({"A": uniform(2, 2)}, [0.5, 1.0]), "labels has dtype"),
    "rows that do not sum to one": (
        lambda: Report({"A": uniform(2, 2), "B": torch.tensor([[0.5, 0.5], [0.5, 0.6]])}, [0, 1]),
        r"predictions\['B'\] row 1 sums to 1.1",
    ),
    "logits": (lambda: Report({"A": torch.tensor([[-1.0, 2.0]])}, [0]), r"predictions\['A'\] row 0.*logits"),
    "NaN": (
        lambda: Report({"A": torch.tensor([[float("nan"), 1.0]])}, [0]),
        r"predictions\['A'\] row 0.*NaN",
    ),
    "one column": (lambda: Report({"A": torch.ones(3, 1)}, [0, 0, 0]), r"predictions\['A'\].*both classes"),
    "other rows": (
        lambda: Report({"A": uniform(3, 2), "B": uniform(4, 2)}, [0, 1, 0]),
        r"predictions\['B'\] has shape \(4, 2\)",
    ),
    "other classes": (
        lambda: Report({"A": uniform(3, 2), "B": uniform(3, 3)}, [0, 1, 0]),
        r"predictions\['B'\] has shape \(3, 3\)",
    ),
    "an unknown baseline": (lambda: Report({"A": uniform(2, 2)}, [0, 1], baseline="B"), "baseline: 'B'"),
    "an empty out-of-distribution set": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], ood={"far": {"A": torch.zeros(0, 2)}}),
        r"ood\['far'\]\['A'\] is empty",
    ),
    "an out-of-distribution set without methods": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], ood={"far": {}}),
        r"ood\['far'\]: the dict is empty",
    ),
    "an unknown out-of-distribution method": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], ood={"far": {"B": uniform(2, 2)}}),
        r"ood\['far'\]: 'B'",
    ),
    "a flat ood": (lambda: Report({"A": uniform(2, 2)}, [0, 1], ood={"A": uniform(2, 2)}), "ood: "),
    "mixed kinds": (
        lambda: Report(
            {"A": uniform(2, 2), "B": GaussianPredictive(torch.zeros(1, 2), torch.ones(1, 2))}, [0, 1]
        ),
        "predictions.*Gaussian",
    ),
    "ood for regression": (
        lambda: Report({"B": GaussianPredictive(torch.zeros(1, 2), torch.ones(1, 2))}, [0.0, 1.0], ood={}),
        "ood: only for classification",
    ),
    "targets that are not finite": (
        lambda: Report({"B": GaussianPredictive(torch.zeros(1, 2), torch.ones(1, 2))}, [0.0, float("inf")]),
        "labels row 1 is inf",
    ),
    "fewer targets": (
        lambda: Report({"B": GaussianPredictive(torch.zeros(1, 2), torch.ones(1, 2))}, [0.0]),
        r"predictions\['B'\]",
    ),
    "class names of another length": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], class_names=["a"]),
        "class_names: got 1",
    ),
    "images of another length": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], images=torch.zeros(3, 8, 8)),
        "images has 3 rows",
    ),
    "images of another shape": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], images=torch.zeros(2, 8)),
        "images has shape",
    ),
    "validation without labels": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], validation={"A": uniform(3, 2)}),
        "validation_labels",
    ),
    "validation rows that are the test rows": (
        lambda: Report(
            {"A": uniform(2, 2)}, [0, 1], validation={"A": uniform(2, 2)}, validation_labels=[0, 1]
        ),
        r"validation\['A'\].*other rows",
    ),
    "validation of an unknown method": (
        lambda: Report(
            {"A": uniform(2, 2)}, [0, 1], validation={"B": uniform(3, 2)}, validation_labels=[0, 1, 1]
        ),
        r"validation\['B'\]",
    ),
    "fewer validation labels": (
        lambda: Report({"A": uniform(2, 2)}, [0, 1], validation={"A": uniform(3, 2)}, validation_labels=[0]),
        "validation_labels has 1 rows",
    ),
    "a level in percent": (lambda: Report({"A": uniform(2, 2)}, [0, 1], level=95), "level is 95"),
    "no bins": (lambda: Report({"A": uniform(2, 2)}, [0, 1], n_bins=0), "n_bins"),
    "no resamples": (lambda: Report({"A": uniform(2, 2)}, [0, 1], n_bootstrap=0), "n_bootstrap"),
    "a negative seed": (lambda: Report({"A": uniform(2, 2)}, [0, 1], seed=-1), "seed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    make, pattern = BAD[case]
    with pytest.raises(InputError, match=re.compile(pattern, re.DOTALL)):
        make()


# Odd data


def test_one_row():
    report = Report({"A": torch.tensor([[0.7, 0.3]]), "B": torch.tensor([[0.6, 0.4]])}, [0], n_bootstrap=30)
    scores = report.results.scores["A"]
    assert scores["nll"].value == pytest.approx(-math.log(0.7)) and scores["nll"].low is None
    assert scores["ece"].value == pytest.approx(0.3) and scores["ece"].low is None
    assert scores["accuracy"].low < 0.5 < scores["accuracy"].high  # Wilson knows that one row says little
    assert report.results.differences["B"]["nll"].verdict == "undetermined"
    assert "1 labelled row " in str(report)
    report.to_html()


def test_a_class_never_seen_is_named():
    p = probabilities(30, 3)
    report = Report({"A": p}, torch.arange(30) % 2, class_names=["cat", "dog", "eel"], n_bootstrap=30)
    assert any("eel" in note for note in report.results.notes)
    eel = [score for score in report.results.classification.worst_classes if score.name == "eel"]
    assert eel[0].recall is None and eel[0].n_rows == 0


def test_one_class_only_and_constant_predictions():
    report = Report({"A": uniform(40, 2)}, torch.zeros(40, dtype=torch.long), n_bootstrap=30)
    scores = report.results.scores["A"]
    assert scores["accuracy"].value == 1.0 and scores["nll"].value == pytest.approx(math.log(2))
    assert scores["ece"].value == pytest.approx(0.5) and scores["nll"].low is None
    report.to_html()


def test_all_right_and_all_wrong_with_certainty():
    labels = torch.arange(40) % 2
    right = torch.nn.functional.one_hot(labels, 2).double()
    report = Report({"right": right, "wrong": 1 - right}, labels, n_bootstrap=30)
    good, bad = report.results.scores["right"], report.results.scores["wrong"]
    assert (good["accuracy"].value, good["nll"].value, good["brier"].value, good["ece"].value) == (1, 0, 0, 0)
    assert (bad["accuracy"].value, bad["nll"].value, bad["brier"].value, bad["ece"].value) == (
        0,
        math.inf,
        2,
        1,
    )
    assert bad["nll"].infinite_rows == 40 and good["accuracy"].low > 0.9
    assert report.results.differences["wrong"]["accuracy"].verdict == "worse"
    text, html = str(report), report.to_html()
    assert "∞" in text and "40 rows give the label probability 0" in text
    assert "∞" in html and "40 rows with p = 0" in html
    assert "nan" not in text.lower() and ">nan" not in html.lower()


def test_half_precision_counts_every_row():
    labels = torch.arange(3000) % 2
    p = torch.where(labels[:, None] == torch.arange(2), 1.0, 0.0)
    p[::4] = 1 - p[::4]
    for dtype in (torch.float16, torch.bfloat16):
        results = Report({"A": p.to(dtype)}, labels, n_bootstrap=20).results
        assert results.scores["A"]["ece"].value == pytest.approx(0.25)
        assert sum(results.classification.reliability["A"].counts) == 3000


def test_perfect_separation_gives_no_false_certainty():
    inside = torch.tensor([[0.99, 0.01]]).repeat(30, 1)
    report = Report(
        {"A": inside}, torch.zeros(30, dtype=torch.long), ood={"far": {"A": uniform(20, 2)}}, n_bootstrap=30
    )
    auroc = report.results.scores["A"]["auroc_far"]
    assert auroc.value == 1.0 and auroc.low is None


def test_arrays_tensors_and_predictives_are_the_same_report():
    labels = torch.arange(50) % 3
    p = probabilities(50, 3, labels=labels).double()
    forms = [p, p.numpy(), p.tolist(), CategoricalPredictive.from_probs(p)]
    found = [Report({"A": form}, labels.numpy(), n_bootstrap=20).results.scores["A"] for form in forms]
    for scores in found[1:]:
        for key, estimate in found[0].items():
            assert scores[key].value == pytest.approx(estimate.value, rel=1e-9)


# Text


def test_the_table_fits_a_terminal_and_marks_the_best(report):
    for width in (80, 110):
        assert max(len(line) for line in report.table(width).splitlines()) <= width
    text = str(report)
    assert max(len(line) for line in text.splitlines()) <= 110
    assert "Compared SGD, SWAG and Ensemble on 240 labelled rows in 4 classes." in text
    marks = [report.results.scores[method]["nll"].mark for method in report.results.methods]
    assert marks.count("best") == 1
    best = min(report.results.scores, key=lambda method: report.results.scores[method]["nll"].value)
    assert report.results.scores[best]["nll"].mark == "best"
    assert repr(report).startswith("Report(classification, 240 rows")


def test_the_summary_says_what_did_not_improve():
    labels = torch.arange(300) % 3
    p = probabilities(300, 3, labels=labels)
    sharper = torch.softmax(4 * p.log(), dim=1)
    report = Report({"SGD": p, "sharper": sharper}, labels, n_bootstrap=100)
    assert report.results.differences["sharper"]["accuracy"].value == 0
    assert any(
        "Worse than SGD" in line and "sharper" in line and "NLL" in line for line in report.results.summary
    )
    assert any("No difference" in line and "Accuracy" in line for line in report.results.summary)


def test_markdown_and_csv_hold_every_figure(report):
    from swag.report.table import comma_separated, markdown

    rows = list(csv.DictReader(io.StringIO(comma_separated(report.results))))
    found = {(row["method"], row["metric"]): row for row in rows if not row["set"]}
    for method, scores in report.results.scores.items():
        for key, estimate in scores.items():
            assert found[method, key]["value"] == ("" if estimate.value is None else repr(estimate.value))
    assert any(row["set"] == "far" and row["score"] == "entropy" for row in rows)
    text = markdown(report.results)
    heads = [line for line in text.splitlines() if line.startswith("|")]
    assert heads[0].count("|") == heads[1].count("|") == heads[2].count("|")


# JSON


def test_json_round_trip_gives_the_same_report(report, tmp_path):
    path = report.save(tmp_path / "report.json")
    again = Report.load(path)
    assert again.results == report.results
    assert again.to_html() == report.to_html() and str(again) == str(report)
    document = json.loads(path.read_text())
    assert (document["schema"], document["version"]) == ("swag.report", 1)
    assert document["scores"]["SGD"]["nll"]["value"] == report.results.scores["SGD"]["nll"].value


def test_json_is_strict_and_spells_infinity(tmp_path):
    labels = torch.tensor([0, 1, 1])
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.2, 0.8]])
    report = Report({"A": p}, labels, n_bootstrap=20)
    text = report.save(tmp_path / "a.json").read_text()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["scores"]["A"]["nll"]["value"] == "Infinity"
    assert Report.load(tmp_path / "a.json").results == report.results


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda d: d.update(schema="other"), "not a report"),
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.pop("methods"), "methods missing"),
        (lambda d: d["scores"]["SGD"]["nll"].update(value="low"), r"scores\.SGD\.nll\.value.*a number"),
        (lambda d: d.update(kind="ranking"), "kind.*one of"),
        (lambda d: d.update(methods="SGD"), "methods.*a list"),
    ],
)
def test_a_damaged_json_is_refused_with_the_place(report, tmp_path, change, pattern):
    document = report.to_dict()
    document = json.loads(json.dumps(document))
    change(document)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=pattern):
        Report.load(path)


def test_a_cut_or_missing_json_is_refused(report, tmp_path):
    path = report.save(tmp_path / "a.json")
    path.write_text(path.read_text()[:500])
    with pytest.raises(InputError, match=r"a\.json: not JSON"):
        Report.load(path)
    with pytest.raises(FileError, match=r"none\.json"):
        Report.load(tmp_path / "none.json")


# Saving


def test_an_unknown_suffix_is_refused_and_nothing_is_written(report, tmp_path):
    with pytest.raises(InputError, match=r"'.pdf'.*\.html, \.json, \.md, \.csv"):
        report.save(tmp_path / "report.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file_whole(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(FileError):
        report.save(path)
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.save(path)
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_saving_into_a_missing_folder_says_so(report, tmp_path):
    with pytest.raises(FileError, match="folder"):
        report.save(tmp_path / "none" / "report.md")
