"""The rate at an epoch, as pure functions: what the schedules set, and what one plots.

An epoch is an absolute number from 0, fractions included: 2.5 is the middle of the third epoch.
"""

from __future__ import annotations

import math


def swa_paper(epoch: float, *, lr: float, swa_start: float, swa_lr: float) -> float:
    r"""The schedule of the SWA paper: constant, then linear to `swa_lr`, then constant.

        t = epoch/swa_start,  rate = lr for t ≤ 0.5,  swa_lr for t > 0.9,
        and lr + (swa_lr − lr)·(t − 0.5)/0.4 between

    Source: Izmailov et al. 2018, arXiv:1803.05407, and the authors' code.

    >>> [round(swa_paper(e, lr=0.1, swa_start=10, swa_lr=0.02), 3) for e in (0, 5, 7, 9, 10, 99)]
    [0.1, 0.1, 0.06, 0.02, 0.02, 0.02]
    """
    t = epoch / swa_start
    if t <= 0.5:
        return lr
    if t > 0.9:
        return swa_lr
    return lr + (swa_lr - lr) * (t - 0.5) / 0.4


def cycle_share(epoch: float, *, cycle: float, step: float = 1.0) -> float:
    """t ∈ (0, 1], the share of its cycle that is over when the step of length `step` at `epoch` is.

    >>> [cycle_share(e, cycle=4) for e in range(5)]
    [0.25, 0.5, 0.75, 1.0, 0.25]
    """
    return min(1.0, (epoch % cycle + step) / cycle)


def saw_tooth(epoch: float, *, lr_max: float, lr_min: float, cycle: float, step: float = 1.0) -> float:
    r"""Falls linearly to `lr_min` in each cycle, then jumps back.

        rate = (1 − t)·lr_max + t·lr_min,   t = ((epoch mod cycle) + step)/cycle

    which for step = 1 is the paper's t(i) = (mod(i − 1, c) + 1)/c with i = epoch + 1: the last step of a
    cycle has exactly `lr_min`, and the first one is already one step below `lr_max`.

    Source: Izmailov et al. 2018, section 3.1.

    >>> [round(saw_tooth(e, lr_max=0.5, lr_min=0.1, cycle=4), 3) for e in range(5)]
    [0.4, 0.3, 0.2, 0.1, 0.4]
    """
    t = cycle_share(epoch, cycle=cycle, step=step)
    return (1 - t) * lr_max + t * lr_min


def cosine_cycle(epoch: float, *, lr_max: float, lr_min: float, cycle: float, step: float = 1.0) -> float:
    r"""Half a cosine down to `lr_min` in each cycle, then a jump back.

        rate = lr_min + (lr_max − lr_min)·(1 + cos πt)/2,   t as for `saw_tooth`

    torch's `CosineAnnealingWarmRestarts` is the same one step later: it starts at lr_max and stops short
    of lr_min.

    >>> [round(cosine_cycle(e, lr_max=0.5, lr_min=0.1, cycle=2), 3) for e in range(3)]
    [0.3, 0.1, 0.3]
    """
    t = cycle_share(epoch, cycle=cycle, step=step)
    return lr_min + (lr_max - lr_min) * (1 + math.cos(math.pi * t)) / 2


def triangle(epoch: float, *, lr_max: float, lr_min: float, cycle: float) -> float:
    r"""FGE's rate: linear down to `lr_min` at mid-cycle and up again.

        t = (epoch mod cycle)/cycle,  rate = (1 − s)·lr_max + s·lr_min,  s = 2t for t < ½, else 2 − 2t

    Source: Garipov et al. 2018, arXiv:1802.10026, equation 4.

    >>> [round(triangle(e, lr_max=0.05, lr_min=0.01, cycle=4), 3) for e in range(5)]
    [0.05, 0.03, 0.01, 0.03, 0.05]
    """
    t = epoch % cycle / cycle
    s = 2 * t if t < 0.5 else 2 - 2 * t
    return (1 - s) * lr_max + s * lr_min


def cosine(epoch: float, *, lr: float, lr_min: float, horizon: float) -> float:
    r"""Half a cosine from `lr` at 0 to `lr_min` at `horizon`.

    >>> [round(cosine(e, lr=0.2, lr_min=0.0, horizon=4), 3) for e in (0, 2, 4)]
    [0.2, 0.1, 0.0]
    """
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * epoch / horizon)) / 2


def repeated_cosine(epoch: float, *, lr: float, horizon: float, first_end: float, cycle: float) -> float:
    r"""fast-SWA's rate: a cosine that is cut off before its end, and whose last piece then comes again.

        rate = lr·(1 + cos(πe′/horizon))/2,   e′ = epoch up to first_end,
        then first_end − cycle + ((epoch − first_end) mod cycle)

    Source: Athiwaratkun et al. 2019, arXiv:1806.05594 (horizon 210, first_end 180, cycle 30).

    >>> rates = [repeated_cosine(e, lr=1.0, horizon=210, first_end=180, cycle=30) for e in (150, 180, 210)]
    >>> rates[0] == rates[1] == rates[2]
    True
    """
    if epoch >= first_end:
        epoch = first_end - cycle + (epoch - first_end) % cycle
    return cosine(epoch, lr=lr, lr_min=0.0, horizon=horizon)
