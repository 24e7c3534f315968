"""Predictions from files, the gate, and the comparison of two reports."""

import re
import zipfile

import numpy as np
import pytest
import torch

from swag.errors import FileError, InputError
from swag.predictive import CategoricalPredictive, GaussianPredictive
from swag.report import Report, read_labels, read_predictions
from swag.report.compare import changes, text
from swag.report.gate import failures

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), 20)
MEMBERS = RNG.dirichlet(np.ones(3), (4, 20))


# Files


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ">f8"])
def test_npz_and_npy_probabilities(tmp_path, dtype):
    probs = PROBS.astype(dtype)
    np.savez(tmp_path / "a.npz", probs=probs)
    np.save(tmp_path / "a.npy", probs)
    for name in ("a.npz", "a.npy"):
        found = read_predictions(tmp_path / name)
        assert found.dtype == torch.from_numpy(probs.astype(np.dtype(dtype).newbyteorder("="))).dtype
        np.testing.assert_array_equal(found.numpy(), probs)


def test_members_and_gaussians(tmp_path):
    np.savez(tmp_path / "m.npz", member_probs=MEMBERS)
    found = read_predictions(tmp_path / "m.npz")
    assert isinstance(found, CategoricalPredictive) and found.n_samples == 4
    np.testing.assert_allclose(found.probs, MEMBERS.mean(0))
    np.savez(tmp_path / "g.npz", mean=np.zeros(7), variance=np.ones(7))
    found = read_predictions(tmp_path / "g.npz")
    assert isinstance(found, GaussianPredictive) and found.n_samples == 1
    np.savez(tmp_path / "h.npz", member_means=np.zeros((3, 7)), member_variances=np.ones((3, 7)))
    assert read_predictions(tmp_path / "h.npz").n_samples == 3


def test_csv_with_and_without_names(tmp_path):
    np.savetxt(tmp_path / "bare.csv", PROBS, delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "named.csv", PROBS, delimiter=",", fmt="%.17g", header="cat,dog,eel", comments="")
    for name in ("bare.csv", "named.csv"):
        np.testing.assert_array_equal(read_predictions(tmp_path / name).numpy(), PROBS)
    (tmp_path / "gauss.csv").write_text("mean,variance\n0.5,1.0\n1.5,2.0\n")
    assert read_predictions(tmp_path / "gauss.csv").variance.tolist() == [1.0, 2.0]
    (tmp_path / "labels.csv").write_text("row,labels\n0,2\n1,0\n")
    labels = read_labels(tmp_path / "labels.csv")
    assert labels.tolist() == [2, 0] and labels.dtype.kind == "i"
    (tmp_path / "only.csv").write_text("0.5\n1.25\n")
    assert read_labels(tmp_path / "only.csv").tolist() == [0.5, 1.25]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({f"p{c}": PROBS[:, c] for c in range(3)}), tmp_path / "p.parquet")
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.parquet").numpy(), PROBS)
    parquet.write_table(pyarrow.table({"labels": [0, 1], "row": [0, 1]}), tmp_path / "l.parquet")
    assert read_labels(tmp_path / "l.parquet").tolist() == [0, 1]


def test_labels_from_npz_and_npy(tmp_path):
    np.savez(tmp_path / "l.npz", labels=np.arange(4), other=np.zeros(2))
    np.save(tmp_path / "l.npy", np.arange(4))
    assert (
        read_labels(tmp_path / "l.npz").tolist() == read_labels(tmp_path / "l.npy").tolist() == [0, 1, 2, 3]
    )


def write(path, kind):
    if kind == "missing":
        return
    if kind == "suffix":
        path.write_text("")
    elif kind == "truncated npz":
        np.savez(path, probs=PROBS)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "truncated npy":
        np.save(path, PROBS)
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "not a zip":
        path.write_bytes(b"hello")
    elif kind == "pickled npz":
        np.savez(path, probs=np.array([{"a": 1}], dtype=object))
    elif kind == "pickled npy":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "other names":
        np.savez(path, logits=PROBS)
    elif kind == "two forms":
        np.savez(path, probs=PROBS, mean=np.zeros(20), variance=np.ones(20))
    elif kind == "flat":
        np.savez(path, probs=PROBS[0])
    elif kind == "integers":
        np.savez(path, probs=np.eye(3, dtype=int))
    elif kind == "no rows":
        np.savez(path, probs=PROBS[:0])
    elif kind == "logits as members":
        np.savez(path, member_probs=10 * MEMBERS)
    elif kind == "negative variance":
        np.savez(path, mean=np.zeros(3), variance=-np.ones(3))
    elif kind == "ragged csv":
        path.write_text("0.5,0.5\n0.5\n")
    elif kind == "words in csv":
        path.write_text("a,b\n0.5,half\n")
    elif kind == "empty csv":
        path.write_text("")
    elif kind == "crc":
        np.savez(path, probs=PROBS)
        with zipfile.ZipFile(path) as archive:
            offset = archive.infolist()[0].header_offset + 200
        content = bytearray(path.read_bytes())
        content[offset] ^= 0xFF
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "name", "error", "pattern"),
    [
        ("missing", "a.npz", FileError, "no such file"),
        ("suffix", "a.pkl", InputError, r"suffix '.pkl'; use one of \.npz"),
        ("truncated npz", "a.npz", FileError, "write it again"),
        ("truncated npy", "a.npy", FileError, "write it again"),
        ("not a zip", "a.npz", FileError, "."),
        ("crc", "a.npz", FileError, "write it again"),
        ("pickled npz", "a.npz", FileError, "pickled"),
        ("pickled npy", "a.npy", FileError, "pickled"),
        ("other names", "a.npz", InputError, r"holds \['logits'\]"),
        ("two forms", "a.npz", InputError, "exactly one"),
        ("flat", "a.npz", InputError, r"probs is float64 of shape \(3,\)"),
        ("integers", "a.npz", InputError, "probs is int64"),
        ("no rows", "a.npz", InputError, r"shape \(0, 3\)"),
        ("logits as members", "a.npz", InputError, "sum to 1"),
        ("negative variance", "a.npz", InputError, "varianc"),
        ("ragged csv", "a.csv", InputError, "line 2"),
        ("words in csv", "a.csv", InputError, "line 2"),
        ("empty csv", "a.csv", InputError, "empty"),
    ],
)
def test_bad_files_are_one_line_with_the_file_in_it(tmp_path, kind, name, error, pattern):
    path = tmp_path / name
    write(path, kind)
    with pytest.raises(error, match=pattern) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_label_files(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.zeros(3), z=np.zeros(3))
    with pytest.raises(InputError, match="name the labels"):
        read_labels(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", labels=np.zeros((3, 2)))
    with pytest.raises(InputError, match="labels is float64 of shape"):
        read_labels(tmp_path / "b.npz")


# The gate


@pytest.fixture(scope="module")
def results():
    labels = np.arange(200) % 3
    noise = np.random.default_rng(1).normal(size=(200, 3))
    noise[np.arange(200), labels] += 1.5
    good = np.exp(noise) / np.exp(noise).sum(1, keepdims=True)
    bad = np.exp(4 * noise) / np.exp(4 * noise).sum(1, keepdims=True)
    ood = {"MNIST 2": {"v1.5 SGD": good[:50], "SWAG": bad[:50]}}
    return Report({"v1.5 SGD": good, "SWAG": bad}, labels, ood=ood, n_bootstrap=80).results


def test_gate_conditions(results):
    scores, difference = results.scores, results.differences["SWAG"]["nll"]
    nll = scores["SWAG"]["nll"]
    for condition, holds in {
        "SWAG.nll > 0": True,
        "SWAG.nll<0": False,
        f"SWAG.nll == {nll.value!r}": True,
        f"SWAG.nll != {nll.value!r}": False,
        f"SWAG.nll.low >= {nll.low!r}": True,
        f"SWAG.nll.high <= {nll.low!r}": False,
        f"SWAG.nll.difference >= {difference.value!r}": True,
        f"SWAG.nll.difference.low > {difference.high!r}": False,
        "v1.5 SGD.ece >= 0": True,
        "SWAG.auroc_MNIST_2 >= 0": True,
        "SWAG.nll < inf": True,
    }.items():
        assert bool(failures(results, condition)) == holds, condition
    assert failures(results, "SWAG.nll > 0.001") == [f"SWAG.nll is {nll.value:.6g} > 0.001"]
    assert len(failures(results, "*.nll > 0")) == 2
    assert len(failures(results, "*.nll.difference > 0")) == 1  # the baseline has none


@pytest.mark.parametrize(
    ("condition", "pattern"),
    [
        ("SWAG.ece", "cannot be read"),
        ("SWAG.ece > often", "'often' is not a number"),
        ("SGD.ece > 1", "no such method.*v1.5 SGD"),
        ("SWAG.loss > 1", "no metric 'loss'.*nll"),
        ("SWAG.ece.middle > 1", "'middle' is not low, high"),
        ("v1.5 SGD.ece.difference > 1", "no such figure"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(results, condition, pattern):
    with pytest.raises(InputError, match=re.compile(pattern, re.DOTALL)):
        failures(results, condition)


# Comparing


def test_a_report_is_the_same_as_itself(results):
    assert {change.word for change in changes(results, results)} == {"same"}
    n = len(changes(results, results))
    assert text(results, results) == f"{n} of {n} figures are the same."


def test_changes_are_told_by_direction_and_by_intervals():
    labels = np.arange(400) % 2

    def report(p, seed=0, **more):
        probs = np.where(labels[:, None] == np.arange(2), p, 1 - p)
        probs = np.clip(
            probs + 0.05 * np.random.default_rng(seed).normal(size=(400, 1)) * [1, -1], 0.01, 0.99
        )
        return Report({"A": probs, **more}, labels, n_bootstrap=60).results

    found = {change.key: change.word for change in changes(report(0.7), report(0.9)) if change.method == "A"}
    assert found["nll"] == "better" and found["brier"] == "better"
    assert found["accuracy"] in ("same", "within the intervals", "other")
    found = {change.key: change.word for change in changes(report(0.9), report(0.7)) if change.method == "A"}
    assert found["nll"] == "worse"
    found = {change.key: change.word for change in changes(report(0.8), report(0.8, seed=1))}
    assert found["nll"] == "within the intervals"
    more = report(0.8, B=np.full((400, 2), 0.5))
    assert {change.word for change in changes(report(0.8), more) if change.method == "B"} == {"new"}
    shown = text(report(0.7), more)
    assert re.search(r"A +NLL ↓ .*→.* better", shown) and re.search(r"B +NLL ↓ +– +→", shown)


def test_only_reports_of_one_kind_compare(results):
    other = Report(
        {"A": GaussianPredictive(torch.zeros(1, 9), torch.ones(1, 9))}, torch.zeros(9), n_bootstrap=20
    )
    with pytest.raises(InputError, match="one kind"):
        changes(results, other.results)
