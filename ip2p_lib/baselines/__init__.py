"""What our editor is compared with, each as a `System`: pictures, triplets, a dial and seeds to edited pictures."""

from ip2p_lib.baselines.catalogue import SYSTEMS, Models, system
from ip2p_lib.baselines.oracle import prompt_to_prompt
from ip2p_lib.baselines.sdedit import sdedit, sdedit_latents
from ip2p_lib.baselines.systems import Edited, Run, System, exact_answer, nothing, our_editor
from ip2p_lib.baselines.text2live import LiveConfig, text2live

__all__ = [
    "SYSTEMS",
    "Edited",
    "LiveConfig",
    "Models",
    "Run",
    "System",
    "exact_answer",
    "nothing",
    "our_editor",
    "prompt_to_prompt",
    "sdedit",
    "sdedit_latents",
    "system",
    "text2live",
]
