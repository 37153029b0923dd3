"""A whole model in one file, under the names of the original Stable Diffusion 1.x code."""

from ip2p_lib.single_file.layout import text_modules, unet_modules, vae_modules
from ip2p_lib.single_file.reading import is_file_name, read_single_file
from ip2p_lib.single_file.writing import check_name, departures, original_weights, save_single_file

__all__ = [
    "check_name",
    "departures",
    "is_file_name",
    "original_weights",
    "read_single_file",
    "save_single_file",
    "text_modules",
    "unet_modules",
    "vae_modules",
]
