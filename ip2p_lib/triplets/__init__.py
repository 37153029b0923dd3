"""Stage one, captions to triplets: a language model writes an instruction and the edited caption."""

from ip2p_lib.triplets.captions import clean_caption, read_captions, world_captions
from ip2p_lib.triplets.journal import Tally
from ip2p_lib.triplets.prompts import Completion, Request, prompt_for, read_completion
from ip2p_lib.triplets.world import edit_of, understood, world_triplet, world_triplets
from ip2p_lib.triplets.writing import Rules, write_all, write_block

__all__ = [
    "Completion",
    "Request",
    "Rules",
    "Tally",
    "clean_caption",
    "edit_of",
    "prompt_for",
    "read_captions",
    "read_completion",
    "understood",
    "world_captions",
    "world_triplet",
    "world_triplets",
    "write_all",
    "write_block",
]
