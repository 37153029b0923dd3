"""The picture world: scenes in words, drawn exactly, with the exact answer to every edit."""

from ip2p_lib.scenes.language import caption, held_out_instruction, instruction
from ip2p_lib.scenes.render import edit_mask, render, render_many
from ip2p_lib.scenes.world import Scene, SceneEdit, edits, sample_edit, sample_scene, sample_scenes

__all__ = [
    "Scene",
    "SceneEdit",
    "caption",
    "edit_mask",
    "edits",
    "held_out_instruction",
    "instruction",
    "render",
    "render_many",
    "sample_edit",
    "sample_scene",
    "sample_scenes",
]
