"""One training loop for every model here: configuration, averages, checkpoints, the loop itself."""

from ip2p_lib.optimisation.averages import Ema, LossWatch
from ip2p_lib.optimisation.checkpoints import checkpoints, load_average
from ip2p_lib.optimisation.config import FitConfig
from ip2p_lib.optimisation.loop import (
    LossAt,
    Report,
    batch_indices,
    compute_dtype,
    computes_in_bf16,
    fit,
    is_sharded,
    launched_precision,
    make_accelerator,
    processes,
    settled_precision,
)

__all__ = [
    "Ema",
    "FitConfig",
    "LossAt",
    "LossWatch",
    "Report",
    "batch_indices",
    "checkpoints",
    "compute_dtype",
    "computes_in_bf16",
    "fit",
    "is_sharded",
    "launched_precision",
    "load_average",
    "make_accelerator",
    "processes",
    "settled_precision",
]
