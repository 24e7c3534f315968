"""Beyond one machine: sharded collectors and posteriors, under torchrun with PyTorch's own engine.

Statistics lie beside the parameters, shard by shard, and nothing is ever gathered: not to collect, not to
sample. See docs/outgrowing_one_machine.md for what to use when, and for what it costs.
"""

from swag.distributed.applied import applied
from swag.distributed.batchnorm import refresh_batchnorm_
from swag.distributed.collector import ShardedCollector
from swag.distributed.cost import Cost, cost
from swag.distributed.files import load, save
from swag.distributed.gaussian import ShardedGaussian
from swag.distributed.launch import torchrun
from swag.distributed.member_files import MemberFiles
from swag.distributed.merging import gather_rows, merge_members, merge_scores
from swag.distributed.multi import train_multi, train_runs
from swag.distributed.point import ShardedPointMass
from swag.distributed.predict import predict
from swag.distributed.workers import RankWorkers, joined

__all__ = [
    "Cost",
    "MemberFiles",
    "RankWorkers",
    "ShardedCollector",
    "ShardedGaussian",
    "ShardedPointMass",
    "applied",
    "cost",
    "gather_rows",
    "joined",
    "load",
    "merge_members",
    "merge_scores",
    "predict",
    "refresh_batchnorm_",
    "save",
    "torchrun",
    "train_multi",
    "train_runs",
]
