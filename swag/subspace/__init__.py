"""Bayesian inference in a low-dimensional affine subspace of the weights: θ = ŵ + P z [Izmailov et al. 2019].

    subspace = collector.subspace(5)
    log_likelihood = swag.subspace.LogLikelihood(model, subspace, batches, swag.HeteroscedasticGaussian())
    posterior = swag.subspace.EllipticalSlice(500).run(log_likelihood, prior_std=1.0, temperature=10.0)
    ensemble = swag.Ensemble(model, posterior, n_samples=30, likelihood=swag.HeteroscedasticGaussian())

Every method samples or approximates the same density over z (k,),

    p(z) p(D|z)^{1/T},    p(z) = N(0, prior_std² I),    T = temperature:

T > 1 flattens the likelihood, T < 1 sharpens it, and the prior stays as it is. `prior_std` is a standard
deviation, never a variance. Each method has `run(log_likelihood, …)`, a posterior over the weights, and
`infer(log_likelihood, …)`, the same in z with what there is to diagnose; `.posterior()` leads from one to the
other.

Source: Izmailov et al. 2019, arXiv:1907.07504.
"""

from swag.subspace.calls import Batched
from swag.subspace.chains import Chains
from swag.subspace.convergence import effective_sample_size, split_rhat
from swag.subspace.elliptical import EllipticalSlice, elliptical_slice_batch
from swag.subspace.elliptical_chain import elliptical_slice
from swag.subspace.fits import FlowFit, GaussianFit
from swag.subspace.flow import FlowVI
from swag.subspace.gaussian_vi import FullCovarianceVI, MeanFieldVI, full_covariance_batch, mean_field_batch
from swag.subspace.laplace import Laplace
from swag.subspace.nuts import NUTS
from swag.subspace.plane import Plane, evaluate_plane
from swag.subspace.plots import plot_plane, plot_trace
from swag.subspace.projected import ProjectedGaussian
from swag.subspace.sketch import FrequentDirections, SketchedTrajectory
from swag.subspace.space import Subspace
from swag.subspace.target import DensityError
from swag.subspace.training_likelihood import LogLikelihood
from swag.subspace.univariate import UnivariateSlice, univariate_slice_batch

__all__ = [
    "NUTS",
    "Batched",
    "Chains",
    "DensityError",
    "EllipticalSlice",
    "FlowFit",
    "FlowVI",
    "FrequentDirections",
    "FullCovarianceVI",
    "GaussianFit",
    "Laplace",
    "LogLikelihood",
    "MeanFieldVI",
    "Plane",
    "ProjectedGaussian",
    "SketchedTrajectory",
    "Subspace",
    "UnivariateSlice",
    "effective_sample_size",
    "elliptical_slice",
    "elliptical_slice_batch",
    "evaluate_plane",
    "full_covariance_batch",
    "mean_field_batch",
    "plot_plane",
    "plot_trace",
    "split_rhat",
    "univariate_slice_batch",
]

# The batch forms, for n independent problems at once; log_likelihood is (n, k) → (n,), row i is problem i.
# prior_std: a number, (k,), (n, 1) or (n, k); temperature: a number or (n,); z0 (n, k).
#
#   elliptical_slice_batch(log_likelihood, prior_std, n_samples, *, z0, temperature=1.0, burn_in=0, thin=1,
#                          generator=None) -> Chains        Chains.z is (n, n_samples, k)
#   univariate_slice_batch(…the same…) -> Chains
#   mean_field_batch(log_likelihood, prior_std, *, z0, temperature=1.0, n_steps=1000, n_draws=4, lr=0.1,
#                    generator=None) -> GaussianFit         .mean (n, k), .factor (n, k, k), .elbo (n,)
#   full_covariance_batch(…the same…) -> GaussianFit        .sample(S, generator=…) -> (n, S, k)
