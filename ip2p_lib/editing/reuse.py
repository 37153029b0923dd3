"""What the UNet calls of one edit have in common, computed once: exact, and no trace is left on the UNet.

Three things by the method. Keys and values of cross-attention depend on the text alone, not on the step. What depends on
the timestep alone is the same for all rows, and known for the whole schedule. And two of the three predictions of a
step are given the same picture and noise: up to where the UNet first reads the text they are one computation.
Two more on a CPU. Convolutions' weights are packed for the kernel once instead of at every call. And the 77 tokens of a
text become 80, of which 77 count: the attention kernel is faster where the number of keys is a multiple of 16.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
UNUSUAL = (
    "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type",
    "time_embedding_act_fn", "time_cond_proj_dim", "only_cross_attention", "dual_cross_attention",
)  # fmt: skip
KEYS = 16
LOCK = RLock()  # one shared call at a time


def can_share(unet: Any) -> bool:
    """Whether a UNet is of Stable Diffusion's form and runs as written: not compiled, sharded or wrapped."""
    return (
        type(unet) is UNet2DConditionModel
        and {*unet.config.down_block_types, *unet.config.up_block_types} <= BLOCKS
        and unet.config.mid_block_type == "UNetMidBlock2DCrossAttn"
        and unet.config.attention_type == "default"
        and not any(unet.config[name] for name in UNUSUAL)
        and not any(m._compiled_call_impl is not None for m in unet.modules())
    )


class SharedWork:
    """The UNet calls of one edit, each doing only what the earlier ones did not.

    Inside a call some modules' `forward` is replaced; it is put back before the call returns or raises. One call
    runs at a time, others wait. A UNet that `can_share` refuses is called as it is.

    Args:
        unet: of the editor; its attention processors may be of any kind.
        alike: so many first rows of the input equal as many next ones, timestep and all, but for the text; 0 for none.
        timesteps: of the schedule, (N,); None computes what depends on them at each step.
        dtype: of the inputs to come.
        packed: asked for the convolutions to use, by module, that keep packed copies of their weights; these must not
            change meanwhile.
    """

    def __init__(
        self,
        unet: Any,
        *,
        alike: int,
        timesteps: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        packed: Callable[[nn.Module], Mapping[nn.Module, Callable[..., Any]]] | None = None,
    ) -> None:
        self._unet, self._step = unet, 0
        self._replaced: dict[nn.Module, Callable[..., Any]] = {}
        with LOCK:  # another edit's replacements must not be taken for the modules' own
            if can_share(unet):
                if packed:
                    self._replaced.update(packed(unet))
                self._share(alike, timesteps, dtype)
        self._texts = [f for f in self._replaced.values() if isinstance(f, _OfText)]
        self._padded = _OfText(_padded)

    def _share(self, alike: int, timesteps: Tensor | None, dtype: torch.dtype) -> None:
        """Say what replaces which module's own `forward`."""
        if alike:
            for module in before_text(self._unet):
                self._replaced[module] = _of_half(self._replaced.get(module, module.forward), alike)
        if timesteps is not None:
            tables = time_tables(self._unet, timesteps, dtype)
            self._replaced |= {m: self._looked_up(table) for m, table in tables.items()}
        for name, attn in self._unet.named_modules():
            if name.endswith(".attn2"):
                self._replaced |= {p: _OfText(p.forward) for p in (attn.to_k, attn.to_v)}

    def __call__(self, inputs: Tensor, timestep: Tensor, states: Tensor, step: int) -> Tensor:
        """The network's answer, (R, C, h, w), for inputs (R, C', h, w), a timestep and text states (R, T, D).

        `step` is the timestep's place in the schedule. Pass the same `states` object at each step.
        """
        with LOCK, forwards(self._replaced):
            self._step = step
            count = states.shape[1]
            if not self._texts or states.device.type != "cpu" or count % KEYS == 0:
                return self._unet(inputs, timestep, states).sample
            longer = self._padded(states)
            counts = (torch.arange(longer.shape[1]) < count).expand(len(longer), -1)
            return self._unet(inputs, timestep, longer, encoder_attention_mask=counts).sample

    def reread(self) -> None:
        """Compute again, in place, what came from the text, whose tensor has new content."""
        for known in (self._padded, *self._texts):
            known.reread()

    def _looked_up(self, table: Tensor) -> Callable[..., Tensor]:
        return lambda *_: table[self._step : self._step + 1]  # one row, which broadcasts


@contextmanager
def forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another `forward` inside the block; whatever they had before is put back."""
    before = {m: m.__dict__.get("forward") for m in replaced}
    try:
        for module, forward in replaced.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, old in before.items():
            if old is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = old


class _OfText:
    """A function of the text that remembers its answer to the tensor it saw last."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward
        self._seen: Tensor | None = None
        self._kept: Tensor | None = None

    def __call__(self, states: Tensor, *args: Any) -> Tensor:
        if self._kept is None or states is not self._seen:
            self._seen, self._kept = states, self._forward(states, *args)
        return self._kept

    def reread(self) -> None:
        if self._kept is not None:
            self._kept.copy_(self._forward(self._seen))


def _padded(states: Tensor) -> Tensor:
    """Text states (R, T, D) with T rounded up; empty tokens at the end."""
    return F.pad(states, (0, 0, 0, -states.shape[1] % KEYS))


def before_text(unet: Any) -> list[nn.Module]:
    """Modules, row by row and with weights, that a row passes before its text is read for the first time."""
    found = [unet.conv_in]
    for block in unet.down_blocks:
        if not getattr(block, "has_cross_attention", False):
            found.append(block)
            continue
        transformer = block.attentions[0]
        first = transformer.transformer_blocks[0]
        return [
            *found, block.resnets[0], transformer.norm, transformer.proj_in, first.norm1, first.attn1, first.norm2,
            first.attn2.to_q,
        ]  # fmt: skip
    return found


def _of_half(forward: Callable[..., Any], alike: int) -> Callable[..., Any]:
    """The same function, where the second `alike` rows are not computed but copied from the first."""

    def narrow(value: Any) -> Any:
        if not isinstance(value, Tensor) or len(value) < 2 * alike:
            return value  # one row for all
        return torch.cat([value[:alike], value[2 * alike :]]) if len(value) > 2 * alike else value[:alike]

    def widen(value: Any) -> Any:
        return tuple(map(widen, value)) if isinstance(value, tuple) else torch.cat([value[:alike], value])

    def shared(*args: Any, **kwargs: Any) -> Any:
        return widen(forward(*map(narrow, args), **{name: narrow(v) for name, v in kwargs.items()}))

    return shared


def time_tables(unet: Any, timesteps: Tensor, dtype: torch.dtype) -> dict[nn.Module, Tensor]:
    """What the time embedding and each of its projections answer at every step of a schedule, (N, C) each."""
    embedding = unet.time_embedding(unet.time_proj(timesteps.to(unet.device)).to(dtype))
    tables = {unet.time_embedding: embedding}
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D) and block.time_emb_proj is not None:
            active = embedding if block.skip_time_act else block.nonlinearity(embedding)
            tables[block.time_emb_proj] = block.time_emb_proj(active)
    return tables
