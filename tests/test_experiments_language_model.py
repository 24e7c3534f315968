"""The language-model experiment: words and windows, the averaged predictive, and the path through it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import swag
from experiments import record
from experiments.language_model import run, table, text
from experiments.language_model.network import LanguageModel, word_losses
from experiments.language_model.study import KIND
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_words_have_numbers_by_frequency_and_the_rest_is_unknown() -> None:
    texts = {"train": "a a a b b c\nd\n", "valid": "a c\n", "test": "b c zebra a\n"}
    found = text.numbered(texts, vocabulary=4)
    end, a, unknown, b = (int(found.train[i]) for i in (-1, 0, 5, 3))
    assert len({end, a, unknown, b}) == 4 == found.vocabulary
    assert found.train.tolist() == [a, a, a, b, b, unknown, end, unknown, end]
    assert found.test.tolist() == [b, unknown, unknown, a, end]
    assert found.unknown == pytest.approx(2 / 5)


def test_a_window_is_predicted_one_word_further() -> None:
    ids = torch.arange(100)
    windows = text.Windows(ids, rows=3, length=5, steps=4, seed=0)
    first, second = list(windows), list(windows)
    assert len(windows) == len(first) == 4
    for x, y in first:
        assert x.shape == y.shape == (3, 5) and torch.equal(y, x + 1)
    assert not torch.equal(first[0][0], second[0][0])  # every epoch draws others
    again = list(text.Windows(ids, rows=3, length=5, steps=4, seed=0))
    assert torch.equal(first[3][0], again[3][0])


def test_held_words_are_predicted_once_each_with_words_before_them() -> None:
    ids = torch.arange(100)
    batches = text.held(ids, length=7, rows=4)
    predicted = torch.cat([y.flatten() for _, y in batches])
    assert predicted.tolist() == list(range(7, 7 * (100 // 7)))
    for x, y in batches:
        assert x.shape[1] == 13 and torch.equal(x[:, -7:] + 1, y)


def test_the_streamed_average_is_the_categorical_one() -> None:
    torch.manual_seed(0)
    model = LanguageModel(20, 6)
    collector = swag.Collector(model, rank=3)
    for _ in range(4):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        collector.collect(model)
    batches = text.held(torch.randint(20, (60,)), length=5, rows=4)
    posterior = collector.swag()
    streamed = swag.Ensemble(model, posterior, 6, seed=1, likelihood=swag.Pointwise(), forward=word_losses)
    whole = swag.Ensemble(
        model, posterior, 6, seed=1, forward=lambda m, batch: m(batch[0], batch[1].shape[1])
    )
    labels = torch.cat([y.flatten() for _, y in batches])
    expected = whole.predict(batches).log_probs[torch.arange(len(labels)), labels]
    found = streamed.predict(batches)
    torch.testing.assert_close(found.log_density, expected, rtol=1e-5, atol=1e-5)
    assert found.n_rows == len(labels) and found.n_samples == 6


def test_a_ratio_and_its_interval_are_those_of_the_logarithms() -> None:
    assert table.ratio_interval([0.5]) == "0.5000"
    # logs ±0.1 around 0: sd 0.1414, standard error 0.1, t of one degree of freedom 12.7062.
    low, high = math.exp(-1.27062), math.exp(1.27062)
    assert table.ratio_interval([math.exp(0.1), math.exp(-0.1)]) == f"1.0000 [{low:.4f}, {high:.4f}]"


def test_a_verdict_goes_by_intervals_on_one_side_of_one() -> None:
    runs = []
    for seed in (0, 1, 2):
        scores = {table.REFERENCE: 5.0, "SWA": 4.9 + 0.01 * seed, "EMA": 5.0 + 0.1 * (seed - 1), "SWAG": 5.2}
        runs.append({"rows": [{"method": method, "nll": nll} for method, nll in scores.items()]})
    assert table.verdict(runs) == (
        "Against “rate falls to 0”, by intervals on one side of 1: lower perplexity: SWA; higher: SWAG; "
        "no difference to be seen: EMA."
    )
    assert table.verdict(runs[:1]) == ""


def test_a_run_writes_what_it_found_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["adam-0.json", "adam-1.json", "sgd-0.json", "sgd-1.json"]
    found = record.read(paths[0], KIND)
    nll = {row["method"]: row["nll"] for row in found["rows"]}
    assert set(nll) == {"rate falls to 0", "rate stays, last step", "SWA", "NT-ASGD", "EMA", "SWAG"}
    assert all(0 < value < math.log(150) + 0.5 for value in nll.values())
    assert found["averaged"]["SWA"] == 4
    paths[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with torch.random.fork_rng(devices=[]):
        assert run.main() == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()) and paths[1].exists()
    assert "### SGD on made up" in printed and "ratio to “rate falls to 0”" in printed


def test_the_readme_has_the_tables_of_its_results() -> None:
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- tables -->\n")[1].split("<!-- end -->")[0].strip()
    results = [record.read(path, KIND) for path in sorted((HERE / "results").glob("*.json"))]
    assert block == (table.tables(results) if results else "")
