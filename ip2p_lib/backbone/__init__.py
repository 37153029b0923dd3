"""Models: the only place that loads weights and chooses device and dtype."""

from ip2p_lib.backbone.clip import ClipEncoder, build_clip, load_clip
from ip2p_lib.backbone.files import model_mark, weights_mark
from ip2p_lib.backbone.language import LanguageModel, load_language_model, load_writer
from ip2p_lib.backbone.loading import (
    files_mark,
    load_backbone,
    load_editor,
    load_judge,
    load_text_to_image,
    model_name,
    pick_device,
)
from ip2p_lib.backbone.model import TOKENIZING, Backbone, check_instruction

__all__ = [
    "TOKENIZING",
    "Backbone",
    "ClipEncoder",
    "LanguageModel",
    "build_clip",
    "check_instruction",
    "files_mark",
    "load_backbone",
    "load_clip",
    "load_editor",
    "load_judge",
    "load_language_model",
    "load_text_to_image",
    "load_writer",
    "model_mark",
    "model_name",
    "pick_device",
    "weights_mark",
]
