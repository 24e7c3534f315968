"""Batch-norm statistics for weights that were never trained with them.

The weights of an average or of a posterior sample were never run on data, so every batch-norm layer
needs its running statistics from training data [Izmailov et al. 2018, section 3.2].
"""

from swag.batchnorm.control_variate import ControlVariateBatchNorm
from swag.batchnorm.exact import ExactBatchNorm, refresh_batchnorm_
from swag.batchnorm.layers import batchnorm_modules, eval_mode
from swag.batchnorm.policy import BatchNormPolicy, KeepBatchNorm, Members
from swag.batchnorm.statistics import batch_statistics
from swag.batchnorm.usual import UsualBatchNorm

__all__ = [
    "BatchNormPolicy",
    "ControlVariateBatchNorm",
    "ExactBatchNorm",
    "KeepBatchNorm",
    "Members",
    "UsualBatchNorm",
    "batch_statistics",
    "batchnorm_modules",
    "eval_mode",
    "refresh_batchnorm_",
]
