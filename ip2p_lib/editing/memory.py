"""What edits of the same picture, or by the same words, need not compute again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ip2p_lib import images
from ip2p_lib.backbone import Backbone
from ip2p_lib.editing.large import decoded, encoded
from ip2p_lib.editing.packing import PackedConvolution, packed_convolutions


class Kept:
    """Answers by (module, key), of which the ones unused for longest are forgotten. Usable from any thread.

    Raises:
        ValueError: capacity below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a memory must have room for at least 1 entry, got {capacity}")
        self._capacity, self._lock = capacity, RLock()
        # An entry holds its module, so that no other can come to have its id.
        self._entries: OrderedDict[tuple[int, Hashable], tuple[nn.Module, Any]] = OrderedDict()

    def get(self, owner: nn.Module, key: Hashable, make: Callable[[], Any]) -> Any:
        """The answer kept for a key, or that of `make`, kept from now on."""
        place = (id(owner), key)
        with self._lock:
            if place not in self._entries:
                self._entries[place] = (owner, make())
            self._entries.move_to_end(place)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
            return self._entries[place][1]

    def __len__(self) -> int:
        return len(self._entries)


class Memory:
    """Latents of pictures, states of texts, packed weights and captured steps, shared by edits, films and sessions.

    Results are the same with and without, to the bit: pictures and texts are always encoded one by one. The models must
    not be trained meanwhile: they are told apart by identity, device and dtype, not by weights.

    Args:
        pictures, texts: how many to keep. A picture of 512 pixels takes 64 KiB in float32, a text of Stable Diffusion's
            encoder 231 KiB.
        steps: captured steps to keep, see `edit(graph=True)`; each holds the memory of a UNet call.
        networks: whose convolutions' packed weights to keep, on a CPU; as large again as the weights.
    """

    def __init__(self, pictures: int = 64, texts: int = 256, steps: int = 2, networks: int = 1) -> None:
        self._pictures, self._texts, self.steps = Kept(pictures), Kept(texts), Kept(steps)
        self._networks = Kept(networks)

    def latents(self, editor: Backbone, picture: Image.Image) -> Tensor:
        """Unscaled latents of an RGB picture at the size to edit, (1, C, h, w); not to be changed in place."""
        key = (images.digest(picture), editor.vae.device, editor.vae.dtype)
        return self._pictures.get(editor.vae, key, lambda: encoded(editor, picture))

    def rebuilt(self, editor: Backbone, picture: Image.Image) -> Image.Image:
        """The picture encoded and decoded without an edit."""
        key = ("rebuilt", images.digest(picture), editor.vae.device, editor.vae.dtype)
        scale = editor.vae.config.scaling_factor
        return self._pictures.get(
            editor.vae, key, lambda: decoded(editor, self.latents(editor, picture) * scale)[0]
        )

    def states(self, editor: Backbone, text: str) -> Tensor:
        """Text states, (1, T, D); not to be changed in place."""
        key = (text, editor.device, editor.unet.dtype)
        return self._texts.get(editor.text_encoder, key, lambda: editor.encode_text([text]))

    def packed(self, unet: nn.Module) -> dict[nn.Module, PackedConvolution]:
        """The network's convolutions that keep packed weights, by module; not to be changed."""
        weight = next(unet.parameters())
        return self._networks.get(unet, (weight.device, weight.dtype), lambda: packed_convolutions(unet))
