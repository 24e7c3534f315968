"""Pictures of chains and posteriors. Each takes an axes and results, draws, and returns the axes.

    figure, ax = matplotlib.pyplot.subplots()
    swag.subspace.plot_plane(ax, swag.subspace.evaluate_plane(log_likelihood, prior_std=1.0), chains)

Nothing here imports pyplot or touches its state. Colours are Okabe and Ito's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from swag.errors import InputError
from swag.subspace.chains import Chains
from swag.subspace.fits import FlowFit, GaussianFit
from swag.subspace.plane import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION = "#0072B2", "#D55E00"
CYCLE = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6E6E6E", "#8C6D1F")
INK = "#3B3F45"
_CIRCLE = np.linspace(0, 2 * np.pi, 181)


def plot_trace(ax: Axes, chains: Chains, *, coordinate: int = 0) -> Axes:
    """One coordinate of z along each chain; its R̂ and effective draws in the title.

    Args:
        ax: where to draw.
        chains: what a sampler gave.
        coordinate: which of the k.

    Raises:
        InputError: no such coordinate.
    """
    k = chains.z.shape[-1]
    if not 0 <= coordinate < k:
        raise InputError(f"coordinate: got {coordinate}; pass 0 to {k - 1}")
    for index, chain in enumerate(chains.z[:, :, coordinate].cpu().numpy()):
        ax.plot(chain, color=CYCLE[index % len(CYCLE)], linewidth=0.7, alpha=0.85)
    title = chains.sampler
    if chains.z.shape[1] >= 4:
        rhat, ess = float(chains.rhat()[coordinate]), float(chains.ess()[coordinate])
        title += f": R̂ {rhat:.3f}, {ess:.0f} effective of {chains.z.shape[0] * chains.z.shape[1]} draws"
    ax.set(xlabel="Draw", ylabel=f"$z_{{{coordinate + 1}}}$")
    ax.set_title(title, fontsize="medium")
    return ax


def plot_plane(
    ax: Axes, plane: Plane, result: Chains | GaussianFit | FlowFit | None = None, *, color: str = VERMILLION
) -> Axes:
    """The log-density's levels below its maximum, and on them draws, or a Gaussian's ellipses of 1 and 2 σ.

    Levels are 0.5, 2, 4.5, … nats below the maximum: where a Gaussian would be at 1, 2, 3, … σ.

    Args:
        ax: where to draw.
        plane: from `evaluate_plane`.
        result: what a method gave; None for the levels alone.
        color: of draws and ellipses.
    """
    below = (plane.log_density.max() - plane.log_density).numpy()
    below = np.where(np.isfinite(below), below, np.nanmax(below[np.isfinite(below)]))
    sigmas = [0, 1, 2, 3, 4, 6, 8, 11, 15, 20]
    levels = [0.5 * s * s for s in sigmas]
    ax.contourf(
        plane.x.numpy(), plane.y.numpy(), below, levels=levels, cmap="Blues_r", extend="max", alpha=0.75
    )
    ax.contour(plane.x.numpy(), plane.y.numpy(), below, levels=levels[1:4], colors=INK, linewidths=0.6)
    at = list(plane.axes)
    if isinstance(result, Chains | FlowFit):
        z = result.samples if isinstance(result, Chains) else result.z
        dots = z[:: max(1, len(z) // 1000), at].cpu().numpy()
        ax.plot(dots[:, 0], dots[:, 1], ".", color=color, markersize=2.5, alpha=0.6)
    elif isinstance(result, GaussianFit):
        mean, covariance = result.mean[at].double().cpu(), result.covariance[at][:, at].double().cpu()
        squared, directions = torch.linalg.eigh(covariance)
        root = (directions * squared.clamp(min=0).sqrt()).numpy()
        circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])
        for sigma, dash in ((1, "-"), (2, "--")):
            line = mean.numpy()[:, None] + sigma * root @ circle
            ax.plot(line[0], line[1], dash, color=color, linewidth=1.2)
        ax.plot(*mean.tolist(), "+", color=color)
    ax.set(xlabel=f"$z_{{{at[0] + 1}}}$", ylabel=f"$z_{{{at[1] + 1}}}$")
    ax.set(xlim=(float(plane.x[0]), float(plane.x[-1])), ylim=(float(plane.y[0]), float(plane.y[-1])))
    return ax
