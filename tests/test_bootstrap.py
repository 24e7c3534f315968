"""The bootstrap's kernels against slow loops, and its intervals against the coverage they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from swag import metrics
from swag.report import bootstrap
from swag.report.classification import rows_of
from swag.report.inputs import class_labels, class_probabilities
from swag.report.intervals import (
    acceleration,
    bca_interval,
    difference_from_intervals,
    ece_corrected,
    ece_interval,
    percentile_interval,
    quantile,
    wilson_interval,
)
from swag.report.sampled import CalibrationErrors, Proportions, Resampled, differences, estimates


def draw_rows(weights):
    """The resampled row numbers, one list a resample."""
    return [np.repeat(np.arange(len(w)), w.astype(int)) for w in weights]


def ece_of(rows, n_bins, weights):
    """ECEs (M, c) of the resamples: Σ_b |g_b| / Σ w."""
    sums = bootstrap.bin_sums(rows.correct - rows.confidence, rows.bins, n_bins, weights)
    return np.abs(sums).sum(axis=1) / weights.sum(axis=1)


def predictions(n=400, n_classes=5, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += 1.5
    if ties:
        logits = np.round(logits)
    return torch.softmax(torch.from_numpy(logits), dim=1), torch.from_numpy(labels)


# Weights


def test_weights_are_whole_numbers_that_sum_to_n_and_do_not_depend_on_the_chunks():
    whole = np.concatenate(list(bootstrap.weight_chunks(37, 50, seed=3)))
    pieces = np.concatenate(list(bootstrap.weight_chunks(37, 50, seed=3, size=7)))
    assert whole.shape == (50, 37)
    assert (whole == np.round(whole)).all() and (whole.sum(axis=1) == 37).all()
    assert (whole == pieces).all()


def test_weights_have_the_moments_of_a_multinomial():
    n, r = 20, 40_000
    w = np.concatenate(list(bootstrap.weight_chunks(n, r, seed=1)))
    covariance = np.cov(w.T)
    # Var = 1 − 1/n, Cov = −1/n; the tolerance is five standard errors of a covariance of unit variances.
    assert np.abs(w.mean(axis=0) - 1).max() < 5 / np.sqrt(r)
    assert np.abs(covariance - (np.eye(n) - 1 / n)).max() < 5 * np.sqrt(2 / r)


def test_streams_and_seeds_differ_and_the_global_generators_stay_as_they_were():
    np.random.seed(0)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    draws = [
        next(bootstrap.weight_chunks(50, 4, seed, stream=stream)) for seed, stream in ((0, 0), (0, 1), (1, 0))
    ]
    assert not (draws[0] == draws[1]).all() and not (draws[0] == draws[2]).all()
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.random.get_rng_state(), before[1])


# Kernels against loops over resampled rows


@pytest.mark.parametrize("ties", [False, True])
def test_means_and_ece_equal_those_of_the_resampled_rows(ties):
    probs, labels = predictions(ties=ties)
    rows = rows_of([class_probabilities(probs, "p")], class_labels(labels, *probs.shape), 15)
    w = next(bootstrap.weight_chunks(len(labels), 12, seed=0))
    found = bootstrap.weighted_means(np.concatenate([rows.nll, rows.brier, rows.correct]), w)
    ece = ece_of(rows, 15, w)[0]
    for r, drawn in enumerate(draw_rows(w)):
        p, y = probs[drawn], labels[drawn]
        assert found[0, r] == pytest.approx(metrics.nll(p, y), rel=1e-12)
        assert found[1, r] == pytest.approx(metrics.brier(p, y), rel=1e-12)
        assert found[2, r] == pytest.approx(metrics.accuracy(p, y), rel=1e-12)
        assert ece[r] == pytest.approx(metrics.ece(p, y, 15), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_aurc_equals_that_of_the_resampled_rows(ties):
    probs, labels = predictions(ties=ties)
    rows = rows_of([class_probabilities(probs, "p")], class_labels(labels, *probs.shape), 15)
    w = next(bootstrap.weight_chunks(len(labels), 12, seed=0))
    accepted = bootstrap.Acceptance.of(1 - rows.correct[0], rows.confidence[0])
    found = bootstrap.aurc(accepted, w.astype(np.float64))
    np.testing.assert_allclose(bootstrap.aurc(accepted, w), found, rtol=1e-6)  # the report's float32 counts
    for r, drawn in enumerate(draw_rows(w)):
        assert found[r] == pytest.approx(metrics.aurc(probs[drawn], labels[drawn]), rel=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_detection_equals_scikit_learn_on_the_resampled_rows(ties):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=150), rng.normal(0.7, 1.2, size=90)
    if ties:
        inside, outside = np.round(inside), np.round(outside)
    w_in, w_out = (
        next(bootstrap.weight_chunks(150, 12, 0)),
        next(bootstrap.weight_chunks(90, 12, 0, stream=1)),
    )
    ranking = bootstrap.Ranking.of(inside, outside)
    found = bootstrap.detection(ranking, w_in.astype(np.float64), w_out.astype(np.float64))
    single = bootstrap.detection(ranking, w_in, w_out)
    for r, (drawn_in, drawn_out) in enumerate(zip(draw_rows(w_in), draw_rows(w_out), strict=True)):
        scores = np.concatenate([inside[drawn_in], outside[drawn_out]])
        is_out = np.repeat([0, 1], [len(drawn_in), len(drawn_out)])
        fpr, tpr, _ = roc_curve(is_out, scores, drop_intermediate=False)
        assert found["auroc"][r] == pytest.approx(roc_auc_score(is_out, scores), rel=1e-12)
        assert found["aupr"][r] == pytest.approx(average_precision_score(is_out, scores), rel=1e-12)
        assert found["fpr95"][r] == pytest.approx(fpr[(tpr >= 0.95 - 1e-12).argmax()], abs=1e-12)
    for measure in found:  # the report's float32 counts
        np.testing.assert_allclose(single[measure], found[measure], rtol=1e-5)


def test_an_infinite_row_makes_exactly_those_resamples_infinite_that_drew_it():
    w = next(bootstrap.weight_chunks(6, 200, seed=0))
    x = np.array([[1.0, 2.0, np.inf, 4.0, 5.0, 6.0]])
    found = bootstrap.weighted_means(x, w)[0]
    assert (np.isinf(found) == (w[:, 2] > 0)).all()
    assert not np.isnan(found).any()


def test_unit_weights_give_the_metrics_themselves():
    probs, labels = predictions(n=1000)
    probs = probs.float()
    rows = rows_of([class_probabilities(probs, "p")], class_labels(labels, *probs.shape), 15)
    ones = np.ones((1, 1000))
    means = bootstrap.weighted_means(np.concatenate([rows.nll, rows.brier, rows.correct]), ones)[:, 0]
    assert means[0] == pytest.approx(metrics.nll(probs, labels), rel=1e-12)
    assert means[1] == pytest.approx(metrics.brier(probs, labels), rel=1e-12)
    assert means[2] == pytest.approx(metrics.accuracy(probs, labels), rel=1e-12)
    assert ece_of(rows, 15, ones)[0, 0] == pytest.approx(metrics.ece(probs, labels, 15), rel=1e-9)


# Intervals


def test_wilson_interval_by_hand_and_at_the_ends():
    low, high = wilson_interval(np.array([8.0, 10.0, 0.0]), np.array([10.0, 10.0, 10.0]), 0.95)
    # Wilson (1927), 8 of 10: 0.4902 to 0.9433; 10 of 10: z²/(n + z²) = 0.2775 from the end.
    assert low[0] == pytest.approx(0.4902, abs=1e-4) and high[0] == pytest.approx(0.9433, abs=1e-4)
    assert low[1] == pytest.approx(1 - 0.2775, abs=1e-4) and high[1] == pytest.approx(1.0)
    assert low[2] == pytest.approx(0.0) and high[2] == pytest.approx(0.2775, abs=1e-4)


def test_bca_is_the_percentile_interval_of_symmetric_replicates():
    replicates = np.linspace(-1, 1, 1001)
    expected = percentile_interval(replicates, 0.9)
    assert bca_interval(replicates, 0.0, 0.0, 0.9) == pytest.approx(expected, abs=0.003)


def test_bca_equals_scipy_on_a_skewed_mean():
    from scipy.stats import bootstrap as scipy_bootstrap

    x = np.random.default_rng(0).lognormal(size=60)
    w = np.concatenate(list(bootstrap.weight_chunks(60, 20_000, 0)))
    replicates = bootstrap.weighted_means(x[None], w)[0]
    found = bca_interval(replicates, x.mean(), acceleration(x / 60), 0.95)
    expected = scipy_bootstrap(
        (x,), np.mean, n_resamples=20_000, method="BCa", random_state=0
    ).confidence_interval
    # Both have the sampling error of their 20,000 resamples, about 0.01 of the width at the ends.
    width = expected.high - expected.low
    assert np.abs(np.array(found) - np.array(expected)).max() < 0.03 * width


def test_quantiles_keep_infinities_without_nan():
    assert quantile(np.array([1.0, 2.0, np.inf, np.inf]), np.array([0.1, 0.9])).tolist() == [1.0, np.inf]


def simulate(n, rng, n_sets):
    """Confidences, correctness, NLL and Brier rows of `n_sets` sets of a calibrated predictor."""
    top = rng.beta(4, 1, (n_sets, n)) * 0.75 + 0.25
    is_right = rng.random((n_sets, n)) < top
    share = rng.dirichlet([0.7] * 3, (n_sets, n)) * (1 - top)[..., None]
    chosen = (rng.random((n_sets, n, 1)) > np.cumsum(share, axis=-1) / (1 - top)[..., None]).sum(axis=-1)
    other = np.take_along_axis(share, np.minimum(chosen, 2)[..., None], axis=-1)[..., 0]
    p_true = np.maximum(np.where(is_right, top, other), 1e-9)
    brier = top**2 + (share**2).sum(axis=-1) - 2 * p_true + 1
    return top, is_right.astype(float), -np.log(p_true), brier


@pytest.mark.parametrize("n", [150, 600])
def test_a_95_percent_interval_covers_the_truth_in_92_to_98_percent_of_500_sets(n):
    rng = np.random.default_rng(n)
    _, right, nll, brier = simulate(1_000_000, rng, 1)
    truth = {"nll": nll.mean(), "brier": brier.mean(), "accuracy": right.mean()}
    _, right, nll, brier = simulate(n, rng, 500)
    w = np.concatenate(list(bootstrap.weight_chunks(n, 1000, seed=0)))
    covered = {}
    for name, rows in (("nll", nll), ("brier", brier)):
        replicates = bootstrap.weighted_means(rows, w)
        sampled = Resampled(rows.mean(axis=1), replicates, (rows / n,), 0.95)
        covered[name] = [sampled.interval(i) for i in range(500)]
    proportions = Proportions(right, 0.95)
    covered["accuracy"] = [proportions.interval(i) for i in range(500)]
    for name, found in covered.items():
        share = np.mean([low <= truth[name] <= high for low, high in found])
        assert 0.92 <= share <= 0.98, (name, share)


def test_paired_differences_cover_the_truth():
    # B is A with a worse temperature on the same rows; accuracy differs by flips in both directions.
    n, sets = 300, 500
    rng = np.random.default_rng(5)
    _, right, nll, _ = simulate(n, rng, sets)
    other = np.where(rng.random((sets, n)) < 0.1, 1 - right, right)
    expected = np.mean(0.1 * (1 - 2 * simulate(1_000_000, rng, 1)[1]))
    worse = nll * 1.3 + 0.02 * rng.normal(size=nll.shape)
    nll_truth = 0.3 * simulate(1_000_000, rng, 1)[2].mean()
    w = np.concatenate(list(bootstrap.weight_chunks(n, 1000, seed=0)))
    covered = {"accuracy": 0, "nll": 0}
    replicates = bootstrap.weighted_means(np.concatenate([worse, nll]), w)
    for i in range(sets):
        low, high = Proportions(np.stack([other[i], right[i]]), 0.95).difference(0, 1)
        covered["accuracy"] += low <= expected <= high
        pair = np.stack([worse[i], nll[i]])
        low, high = Resampled(pair.mean(axis=1), replicates[[i, sets + i]], (pair / n,), 0.95).difference(
            0, 1
        )
        covered["nll"] += low <= nll_truth <= high
    assert 0.92 <= covered["accuracy"] / sets <= 0.98, covered
    assert 0.92 <= covered["nll"] / sets <= 0.98, covered


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.95), (0.03, 0.90), (0.12, 0.90)])
def test_the_ece_interval_covers_where_the_percentile_interval_does_not(shift, least):
    n, n_bins, sets = 500, 15, 200
    rng = np.random.default_rng(11)

    def draw(shape):
        confidence = rng.beta(6, 1, shape)
        return confidence, (rng.random(shape) < np.clip(confidence - shift, 0, 1)).astype(float)

    def binned(confidence):
        return np.searchsorted(np.arange(1, n_bins) / n_bins, confidence)

    confidence = rng.beta(6, 1, 2_000_000)
    gap = np.clip(confidence - shift, 0, 1) - confidence
    truth = np.abs(np.bincount(binned(confidence), gap, n_bins)).sum() / len(gap)
    confidence, right = draw((sets, n))
    w = np.concatenate(list(bootstrap.weight_chunks(n, 400, seed=0)))
    sums = bootstrap.bin_sums(right - confidence, binned(confidence), n_bins, np.ones((1, n)))[:, :, 0]
    replicates = bootstrap.bin_sums(right - confidence, binned(confidence), n_bins, w)
    found = [ece_interval(g, r, n, 0.95) for g, r in zip(sums, replicates, strict=True)]
    share = np.mean([low - 1e-9 <= truth <= high for low, high in found])
    assert share >= least, share
    naive = [percentile_interval(np.abs(r).sum(axis=0) / n, 0.95) for r in replicates]
    if (
        shift <= 0.03
    ):  # this is why: the percentile interval of a nearly calibrated model lies above the truth
        assert np.mean([low <= truth <= high for low, high in naive]) < 0.5


def test_the_corrected_ece_lies_below_the_plug_in_and_within_the_interval():
    probs, labels = predictions(n=300)
    rows = rows_of([class_probabilities(probs, "p")], class_labels(labels, *probs.shape), 15)
    w = np.concatenate(list(bootstrap.weight_chunks(300, 500, seed=0)))
    sums = bootstrap.bin_sums(rows.correct - rows.confidence, rows.bins, 15, np.ones((1, 300)))[0, :, 0]
    replicates = bootstrap.bin_sums(rows.correct - rows.confidence, rows.bins, 15, w)[0]
    plug_in = metrics.ece(probs, labels, 15)
    low, high = ece_interval(sums, replicates, 300, 0.95)
    assert ece_corrected(sums, replicates, 300) <= plug_in
    assert low <= plug_in <= high


def test_two_calibrated_methods_of_unequal_sharpness_are_not_told_apart_by_their_biases():
    n, n_bins, sets = 300, 15, 200
    rng = np.random.default_rng(0)
    w = np.concatenate(list(bootstrap.weight_chunks(n, 300, seed=0)))
    false_alarms = 0
    for _ in range(sets):
        confidence = np.stack([rng.beta(4, 1, n), rng.beta(20, 1, n)])
        right = (rng.random(n) < confidence).astype(float)
        bins = np.searchsorted(np.arange(1, n_bins) / n_bins, confidence)
        sums, replicates = (
            bootstrap.bin_sums(right - confidence, bins, n_bins, weights) for weights in (np.ones((1, n)), w)
        )
        low, high = CalibrationErrors(sums[:, :, 0], replicates, n, 0.95).difference(0, 1)
        false_alarms += not low <= 0 <= high
    assert false_alarms / sets <= 0.08


def test_difference_from_intervals_by_hand():
    # Independent, both ± 3 and ± 4: ± 5; perfectly correlated: ± 1.
    assert difference_from_intervals(10, (7, 13), 2, (-2, 6), 0.0) == pytest.approx((3, 13))
    assert difference_from_intervals(10, (7, 13), 2, (-2, 6), 1.0) == pytest.approx((7, 9))


# Columns


def resampled(rows, level=0.95):
    rows = np.asarray(rows, dtype=float)
    w = np.concatenate(list(bootstrap.weight_chunks(rows.shape[1], 500, seed=0)))
    return Resampled(
        bootstrap.weighted_means(rows, np.ones((1, rows.shape[1])))[:, 0],
        bootstrap.weighted_means(rows, w),
        (rows / rows.shape[1],),
        level,
    )


def test_a_paired_difference_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    rows = rng.exponential(size=300)
    sampled = resampled([rows, rows + 0.05 + 0.01 * rng.normal(size=300)])
    first, second = sampled.interval(0), sampled.interval(1)
    assert first[0] < second[0] < first[1]  # they overlap
    found = differences(sampled, ["A", "B"], "A", "lower")["B"]
    assert found.verdict == "worse" and 0.04 < found.low < 0.05 < found.high < 0.06


@pytest.mark.parametrize(("direction", "verdict"), [("lower", "worse"), ("higher", "better")])
def test_verdicts_follow_the_direction(direction, verdict):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=100)
    sampled = resampled([rows, rows + 1 + 0.1 * rng.normal(size=100)])
    assert differences(sampled, ["A", "B"], "A", direction)["B"].verdict == verdict
    assert [e.mark for e in estimates(sampled, ["A", "B"], direction).values()] == (
        ["best", ""] if direction == "lower" else ["", "best"]
    )


def test_no_spread_gives_no_interval_and_says_so():
    sampled = resampled([[0.5] * 40, [0.7] * 40, [0.5] * 40])
    assert sampled.interval(0) is None
    found = differences(sampled, ["A", "B", "C"], "A", "lower")
    assert found["B"].verdict == "undetermined" and found["C"].verdict == "no difference"


def test_infinite_figures_are_compared_only_where_that_means_something():
    rng = np.random.default_rng(0)
    rows = rng.exponential(size=(3, 60))
    rows[0, 3] = rows[1, 7] = np.inf
    sampled = resampled(rows)
    found = differences(sampled, ["A", "B", "C"], "C", "lower")
    assert found["A"].value == np.inf and found["A"].high == np.inf
    both = differences(sampled, ["A", "B", "C"], "A", "lower")["B"]
    assert both.value is None and both.verdict == "undetermined"
    assert estimates(sampled, ["A", "B", "C"], "lower", [1, 1, 0])["C"].mark == "best"


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), n_bins=st.integers(1, 20), seed=st.integers(0, 1000))
def test_intervals_hold_the_ece_and_stay_in_range(n, n_bins, seed):
    rng = np.random.default_rng(seed)
    confidence = rng.random((2, n))
    right = (rng.random((2, n)) < 0.5).astype(float)
    bins = np.searchsorted(np.arange(1, n_bins) / n_bins, confidence)
    w = next(bootstrap.weight_chunks(n, 60, seed=seed))
    sums, replicates = (
        bootstrap.bin_sums(right - confidence, bins, n_bins, weights) for weights in (np.ones((1, n)), w)
    )
    sampled = CalibrationErrors(sums[:, :, 0], replicates, n, 0.95)
    interval = sampled.interval(0)
    if n == 1:
        assert interval is None
    else:
        assert -1e-12 <= interval[0] <= sampled.values[0] + 1e-9 <= interval[1] + 2e-9 <= 1 + 3e-9
        low, high = sampled.difference(0, 1)
        assert low <= high


def test_auroc_and_aurc_intervals_cover_too():
    from scipy.stats import norm

    from swag.report.ood import auroc_influences

    sets, n, m = 200, 150, 80
    rng = np.random.default_rng(3)
    w_in = np.concatenate(list(bootstrap.weight_chunks(n, 300, 0)))
    w_out = np.concatenate(list(bootstrap.weight_chunks(m, 300, 0, stream=1)))
    confidence = rng.beta(6, 1, 300_000)
    errors = (rng.random(300_000) > confidence).astype(float)
    everything = bootstrap.Acceptance.of(errors, confidence)
    truth = {"auroc": norm.cdf(1 / np.sqrt(2)), "aurc": bootstrap.aurc(everything, np.ones((1, 300_000)))[0]}
    covered = {"auroc": 0, "aurc": 0}
    for _ in range(sets):
        inside, outside = rng.normal(size=n), rng.normal(1, 1, m)
        ranking = bootstrap.Ranking.of(inside, outside)
        replicates = bootstrap.detection(ranking, w_in, w_out)["auroc"]
        value = metrics.auroc(inside, outside)
        low, high = bca_interval(replicates, value, acceleration(*auroc_influences(inside, outside)), 0.95)
        covered["auroc"] += low <= truth["auroc"] <= high
        confidence = rng.beta(6, 1, n)
        accepted = bootstrap.Acceptance.of((rng.random(n) > confidence).astype(float), confidence)
        low, high = percentile_interval(bootstrap.aurc(accepted, w_in), 0.95)
        covered["aurc"] += low <= truth["aurc"] <= high
    # 200 sets: three standard errors of a share of 0.95 are 0.046.
    assert all(abs(count / sets - 0.95) < 0.046 for count in covered.values()), covered


def test_auroc_influences_are_those_of_leaving_a_row_out():
    from swag.report.ood import auroc_influences

    rng = np.random.default_rng(0)
    inside, outside = np.round(rng.normal(size=30), 1), np.round(rng.normal(1, 1, 20), 1)
    value = metrics.auroc(inside, outside)
    from_in, from_out = auroc_influences(inside, outside)
    # n u = (n − 1)(value − value without the row) + value, exactly, since the AUROC is a mean in each sample.
    for i in range(30):
        expected = value + 29 * (value - metrics.auroc(np.delete(inside, i), outside))
        assert 30 * from_in[i] == pytest.approx(expected)
    for j in range(20):
        expected = value + 19 * (value - metrics.auroc(inside, np.delete(outside, j)))
        assert 20 * from_out[j] == pytest.approx(expected)
