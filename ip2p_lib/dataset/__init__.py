"""Pair datasets for training: any known format in, a latent cache on disk, batches by step number."""

from ip2p_lib.dataset.drawing import EditDataset, is_held_out, open_dataset
from ip2p_lib.dataset.encoding import autoencoder_mark
from ip2p_lib.dataset.reading import find_shards, pair_files, read_pairs
from ip2p_lib.dataset.rows import Pair

__all__ = [
    "EditDataset",
    "Pair",
    "autoencoder_mark",
    "find_shards",
    "is_held_out",
    "open_dataset",
    "pair_files",
    "read_pairs",
]
