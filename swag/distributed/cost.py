"""What sharded SWAG costs each device: bytes kept, and bytes received over the wire, by formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from swag.errors import InputError

# `Ranks.alike` gathers a digest, `Ranks.seed` and `lockstep` send a number, statistics are float64.
_DIGEST, _NUMBER, _DOUBLE = 32, 8, 8
# First snapshot, mean, squared deviations; and what a posterior has of its own: mean and variances.
_VECTORS, _READ_OUT = 3, 2


@final
@dataclass(frozen=True)
class Cost:
    r"""Bytes for each of N devices; P parameters, K rows, evenly divided.

    Kept on a device (its host, with device="cpu"):

        statistics  3·s·P/N             s: bytes of a statistic, 4, or 8 for float64 models
        deviations  K·w·P/N             w: bytes of a row's number, 4, or 2 for bfloat16
        posterior   (2·s + K·w)·P/N     read out by .swag(), beside the collector
        sample      s·P/N               each drawn weight vector
        restore     b·P/N               the model's own shards, aside while a sample is in their place

    Received by a device, b the bytes of a parameter as the forward pass gathers it:

        collect     0
        readout     32·(N−1)            a digest of the number of snapshots
        draw        8                   the seed
        forward     b·P·(N−1)/N         one pass, what FSDP gathers in training, too
        save        file·(N−1)/N        rank 0 alone; file = (3·s + K·w)·P of a collector

    Attributes:
        n_parameters: P.
        n_devices: N.
    """

    n_parameters: int
    n_devices: int
    statistics: int
    deviations: int
    posterior: int
    sample: int
    restore: int
    collect: int
    readout: int
    draw: int
    forward: int
    save: int

    @property
    def collecting(self) -> int:
        """Kept on a device while training: statistics and deviations."""
        return self.statistics + self.deviations

    def refresh(self, n_batches: int, n_channels: int) -> int:
        """Received by a device for the batch-norm statistics of one member, the rings' all-reduce counted.

            n_batches·(forward + 8·(N−1)) + 8·(N−1) + 2·(N−1)/N·8·(3·C + 1)

        Args:
            n_batches: of the rank that has most.
            n_channels: C, over all batch-norm layers.
        """
        n = self.n_devices
        reduced = 2 * (n - 1) * _DOUBLE * (3 * n_channels + 1) // n
        return n_batches * (self.forward + _NUMBER * (n - 1)) + _NUMBER * (n - 1) + reduced

    def predict(self, n_batches: int, n_samples: int, *, refresh: int = 0) -> int:
        """Received by a device for the average of S members; the first term compares the arguments.

            32·(N−1) + S·(draw + n_batches·forward + refresh)

        Args:
            n_batches: to predict, of the rank that has most.
            n_samples: S.
            refresh: what `refresh(…)` says, for models with batch norm.
        """
        return self.readout + n_samples * (self.draw + n_batches * self.forward + refresh)


def cost(
    n_parameters: int,
    n_devices: int,
    rank: int = 20,
    *,
    deviation_dtype: torch.dtype = torch.float32,
    gathered_dtype: torch.dtype = torch.bfloat16,
    model_dtype: torch.dtype = torch.float32,
) -> Cost:
    """The bytes behind a `ShardedCollector` of a model divided by `fully_shard`.

    Args:
        n_parameters: P.
        n_devices: N, that share one copy of the model.
        rank: K.
        deviation_dtype: of the rows.
        gathered_dtype: in which the forward pass gathers parameters (FSDP's `MixedPrecisionPolicy`).
        model_dtype: of the shards that the optimizer steps.

    >>> seven_billion = cost(7_000_000_000, 64, rank=20, deviation_dtype=torch.bfloat16)
    >>> seven_billion.collecting, seven_billion.collect
    (5687500000, 0)
    """
    for name, value, least in (
        ("n_parameters", n_parameters, 1),
        ("n_devices", n_devices, 1),
        ("rank", rank, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: got {value!r}; pass a whole number of at least {least}")
    part = -(-n_parameters // n_devices)
    others = n_devices - 1
    number = 8 if model_dtype == torch.float64 else 4
    row = rank * deviation_dtype.itemsize
    return Cost(
        n_parameters=n_parameters,
        n_devices=n_devices,
        statistics=_VECTORS * number * part,
        deviations=row * part,
        posterior=(_READ_OUT * number + row) * part,
        sample=number * part,
        restore=model_dtype.itemsize * part,
        collect=0,
        readout=_DIGEST * others,
        draw=_NUMBER if others else 0,
        forward=gathered_dtype.itemsize * part * others,
        save=(_VECTORS * number + row) * part * others,
    )
