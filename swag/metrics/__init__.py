"""Scores of predictions: pure functions of tensors or arrays that return plain numbers.

Classification takes probabilities (N, C) and integer labels (N,); regression takes means, variances and
outcomes; out-of-distribution scores are higher for inputs further out. Losses are means in nats, calibration
errors fractions. Anything that cannot be scored, logits instead of probabilities say, is refused with
`swag.errors.InputError`.
"""

from swag.metrics.binning import ReliabilityCurve
from swag.metrics.calibration import (
    adaptive_ece,
    classwise_ece,
    ece,
    equal_mass_reliability_curve,
    mce,
    reliability_curve,
    rmsce,
)
from swag.metrics.classification import (
    RowScores,
    accuracy,
    brier,
    deep_ensemble_equivalent,
    n_impossible,
    nll,
    row_scores,
    top_k_accuracy,
)
from swag.metrics.debiased import debiased_ece, debiased_rmsce
from swag.metrics.decomposition import BrierDecomposition, brier_decomposition
from swag.metrics.diversity import disagreement, entropy, expected_entropy, mutual_information
from swag.metrics.entropy_histograms import symmetrised_kl
from swag.metrics.intervals import (
    PitHistogram,
    interval_coverage,
    interval_score,
    interval_width,
    pinball,
    pit_calibration_error,
    pit_histogram,
    regression_calibration_error,
)
from swag.metrics.kernel_calibration import kde_ece, smooth_ece
from swag.metrics.mixture import mixture_crps, mixture_nll, mixture_pit
from swag.metrics.ood import (
    aupr,
    aupr_in,
    aupr_out,
    auroc,
    detection_error,
    fpr_at_tpr,
    fpr_at_tpr_in,
)
from swag.metrics.regression import coverage, crps, gaussian_nll, pit, rmse, sharpness
from swag.metrics.scores import (
    averaged_over_members,
    energy_score,
    entropy_score,
    max_logit_score,
    max_probability_score,
    mutual_information_score,
)
from swag.metrics.selective import (
    RiskCoverageCurve,
    aurc,
    excess_aurc,
    risk_coverage,
    risk_coverage_from_scores,
)
from swag.metrics.streaming import ClassificationScores, StreamingClassification, classification_scores
from swag.metrics.streaming_regression import RegressionScores, StreamingRegression, regression_scores
from swag.metrics.temperature import calibrated_log_likelihood, calibrated_nll, fit_temperature

__all__ = [
    "BrierDecomposition",
    "ClassificationScores",
    "PitHistogram",
    "RegressionScores",
    "ReliabilityCurve",
    "RiskCoverageCurve",
    "RowScores",
    "StreamingClassification",
    "StreamingRegression",
    "accuracy",
    "adaptive_ece",
    "aupr",
    "aupr_in",
    "aupr_out",
    "aurc",
    "auroc",
    "averaged_over_members",
    "brier",
    "brier_decomposition",
    "calibrated_log_likelihood",
    "calibrated_nll",
    "classification_scores",
    "classwise_ece",
    "coverage",
    "crps",
    "debiased_ece",
    "debiased_rmsce",
    "deep_ensemble_equivalent",
    "detection_error",
    "disagreement",
    "ece",
    "energy_score",
    "entropy",
    "entropy_score",
    "equal_mass_reliability_curve",
    "excess_aurc",
    "expected_entropy",
    "fit_temperature",
    "fpr_at_tpr",
    "fpr_at_tpr_in",
    "gaussian_nll",
    "interval_coverage",
    "interval_score",
    "interval_width",
    "kde_ece",
    "max_logit_score",
    "max_probability_score",
    "mce",
    "mixture_crps",
    "mixture_nll",
    "mixture_pit",
    "mutual_information",
    "mutual_information_score",
    "n_impossible",
    "nll",
    "pinball",
    "pit",
    "pit_calibration_error",
    "pit_histogram",
    "regression_calibration_error",
    "regression_scores",
    "reliability_curve",
    "risk_coverage",
    "risk_coverage_from_scores",
    "rmsce",
    "rmse",
    "row_scores",
    "sharpness",
    "smooth_ece",
    "symmetrised_kl",
    "top_k_accuracy",
]
