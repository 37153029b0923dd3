"""One training loop for every model here: configuration, averages, checkpoints, the loop itself."""

from ip2p_lib.optimisation.averages import Ema, LossWatch
from ip2p_lib.optimisation.checkpoints import checkpoints, load_average
from ip2p_lib.optimisation.config import FitConfig
from ip2p_lib.optimisation.loop import (
    LossAt,
    Report,
    batch_indices,
    computes_in_bf16,
    fit,
    make_accelerator,
    processes,
)

__all__ = [
    "Ema",
    "FitConfig",
    "LossAt",
    "LossWatch",
    "Report",
    "batch_indices",
    "checkpoints",
    "computes_in_bf16",
    "fit",
    "load_average",
    "make_accelerator",
    "processes",
]
