"""The columns of the report: how each is written, which way is better, what it means, what its "
"interval is."""

from swag.report.numerals import percent
from swag.report.results import Metric

_BCA = "bias-corrected and accelerated bootstrap over rows"
_BCA_BOTH = "bias-corrected and accelerated bootstrap over the rows of both sets"
_PERCENTILE = "percentile bootstrap over rows"
_PERCENTILE_BOTH = "percentile bootstrap over the rows of both sets"
_INVERTED = (
    "all errors of the population under which {} like the one seen is usual (inverted bootstrap "
    "along shrunken "
    "gaps); unlike percentile intervals it allows for the bias and can reach 0; differences combine two such "
    "intervals, corrected for the bias, so they need not centre on the difference shown"
)

SCORE_LABELS = {
    "max_prob": "1 − max prob.",
    "entropy": "Entropy",
    "mutual_information": "Mutual info.",
    "energy": "Energy",
    "max_logit": "−Max logit",
}

OOD_MEASURES = {
    metric.key: metric
    for metric in (
        Metric(
            "auroc", "AUROC", "fraction", "higher",
            "Probability that an out-of-distribution row scores higher than a test row, ties one half.",
            _BCA_BOTH,
        ),
        Metric(
            "aupr", "AUPR", "fraction", "higher",
            "Average precision with out-of-distribution rows as positives; it depends on the sizes "
            "of both sets.",
            _PERCENTILE_BOTH,
        ),
        Metric(
            "fpr95", "FPR at 95 % TPR", "fraction", "lower",
            "Share of test rows flagged by the threshold that flags 95 % of the out-of-distribution rows.",
            _PERCENTILE_BOTH,
        ),
    )
}  # fmt: skip


def classification_metrics(n_bins: int) -> dict[str, Metric]:
    """The columns of a classification report, by key."""
    columns = (
        Metric(
            "accuracy", "Accuracy", "fraction", "higher",
            "Share of rows whose most probable class is the label; of tied classes the first counts.",
            "Wilson's score interval; differences by Newcombe's method for paired proportions",
        ),
        Metric(
            "nll", "NLL", "nats", "lower",
            "Mean of −log p(label). It is ∞ as soon as one label has probability 0; such rows are "
            "counted, not "
            "clipped.",
            _BCA,
        ),
        Metric(
            "nll_temperature", "NLL after temp.", "nats", "lower",
            "NLL after temperature scaling: probabilities ∝ p^(1/T), with one T a method, fitted on "
            "validation "
            "rows only.",
            f"{_BCA}, with T held fixed",
        ),
        Metric(
            "brier", "Brier", "0 to 2", "lower",
            "Squared distance between the probabilities and the one-hot label, summed over classes; "
            "mean over "
            "rows.",
            _BCA,
        ),
        Metric(
            "ece", "ECE", "fraction", "lower",
            "Expected calibration error: mean over rows of |accuracy − mean confidence| of the row's bin; "
            f"{n_bins} bins of equal width over [0, 1], closed on the right. The value shown is the "
            "usual plug-in "
            "one, which is too high on average, the more so the fewer the rows.",
            _INVERTED.format("an ECE"),
        ),
        Metric(
            "aurc", "AURC", "fraction", "lower",
            "Area under the risk–coverage curve: the error rate among the most confident rows, "
            "averaged over how "
            "many are kept.",
            _PERCENTILE,
        ),
    )  # fmt: skip
    return {column.key: column for column in columns}


def auroc_metric(key: str, name: str) -> Metric:
    """The column of an out-of-distribution set."""
    return Metric(
        key, f"AUROC {name}", "fraction", "higher",
        f"Probability that a row of {name} has a higher predictive entropy than a test row, ties one half.",
        _BCA_BOTH,
    )  # fmt: skip


def regression_metrics(level: float) -> dict[str, Metric]:
    """The columns of a regression report, by key."""
    columns = (
        Metric(
            "nll", "NLL", "nats", "lower",
            "Mean of −log p(y), p being the exact mixture of the members.", _BCA
        ),
        Metric(
            "nll_gaussian", "NLL (Gaussian)", "nats", "lower",
            "The same with p the Gaussian of the predictive mean and variance, which published tables give.",
            _BCA,
        ),
        Metric(
            "rmse", "RMSE", "unit of y", "lower",
            "Root of the mean squared error of the predictive mean.", _BCA
        ),
        Metric(
            "crps", "CRPS", "unit of y", "lower",
            "Continuous ranked probability score, ∫ (F(t) − 1[y ≤ t])² dt, of the exact mixture.",
            _BCA,
        ),
        Metric(
            "calibration_error", "Calibration error", "fraction", "lower",
            "Mean over the levels q = 0.01, 0.02, …, 0.99 of |share of targets below the q-quantile − q|.",
            _INVERTED.format("a calibration error"),
        ),
        Metric(
            "coverage", f"Coverage of {percent(level)}", "fraction", "none",
            f"Share of targets inside the central {percent(level)} interval; right is {level:g}, more "
            "is too wide.",
            "Wilson's score interval",
        ),
        Metric(
            "width", f"Width of {percent(level)}", "unit of y", "none",
            f"Mean width of the central {percent(level)} interval; narrower is better only at the "
            "right coverage.",
            _BCA,
        ),
    )  # fmt: skip
    return {column.key: column for column in columns}
