"""Fine-tune the widened UNet on edit pairs: the loss of any step, the run, and how to watch it."""

from ip2p_lib.training.card import write_card
from ip2p_lib.training.loss import (
    EditLoss,
    conditioning_dropout,
    draw_timesteps,
    edit_loss,
    validation_loss,
)
from ip2p_lib.training.run import check_run, fit_config, parameter_groups, train_editor
from ip2p_lib.training.watching import EditSheet, Progress, drawn, watched

__all__ = [
    "EditLoss",
    "EditSheet",
    "Progress",
    "check_run",
    "conditioning_dropout",
    "draw_timesteps",
    "drawn",
    "edit_loss",
    "fit_config",
    "parameter_groups",
    "train_editor",
    "validation_loss",
    "watched",
    "write_card",
]
