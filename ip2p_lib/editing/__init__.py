"""Edit pictures by instruction with two guidance scales: the library's front door."""

from ip2p_lib.editing.edits import (
    MAX_SCALE,
    EditResult,
    check_scales,
    edit,
    film,
    recipe_of,
    resized,
    sampled,
    shown,
)
from ip2p_lib.editing.latents import edit_latents
from ip2p_lib.editing.memory import Memory

__all__ = [
    "MAX_SCALE",
    "EditResult",
    "Memory",
    "check_scales",
    "edit",
    "edit_latents",
    "film",
    "recipe_of",
    "resized",
    "sampled",
    "shown",
]
