"""Systems by name, with the models of a preset; each model is loaded once, when first needed."""

from collections.abc import Callable
from functools import cached_property

import torch

from ip2p_lib.backbone import Backbone, ClipEncoder, load_clip, load_editor, load_text_to_image
from ip2p_lib.baselines.oracle import prompt_to_prompt
from ip2p_lib.baselines.sdedit import sdedit
from ip2p_lib.baselines.systems import System, exact_answer, nothing, our_editor
from ip2p_lib.baselines.text2live import LiveConfig, text2live
from ip2p_lib.presets import Preset


class Models:
    """A preset's models; `model` names another editor. CLIP, which measures, stays in float32."""

    def __init__(
        self,
        preset: Preset,
        *,
        model: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.preset, self.model, self.device, self.dtype = preset, model, device, dtype

    @cached_property
    def base(self) -> Backbone:
        """Text-to-image."""
        return load_text_to_image(self.preset, device=self.device, dtype=self.dtype)

    @cached_property
    def editor(self) -> Backbone:
        """The editor under test."""
        return load_editor(self.preset, self.model, device=self.device, dtype=self.dtype)

    @cached_property
    def clip(self) -> ClipEncoder:
        """Measures, and guides Text2LIVE."""
        return load_clip(self.preset, device=self.device)

    def sdedit(self, text: str) -> System:
        """SDEdit at the low end of the scales that pairs are drawn with: 7.5 at full size, as in the paper."""
        pairs = self.preset.pairs
        return sdedit(
            self.base,
            text=text,
            guidance_scale=pairs.cfg_scale_range[0],
            num_inference_steps=pairs.num_inference_steps,
        )

    def prompt_to_prompt(self) -> System:
        """The oracle, as pairs are made."""
        pairs = self.preset.pairs
        return prompt_to_prompt(
            self.base,
            guidance_scale=pairs.cfg_scale_range[0],
            num_inference_steps=pairs.num_inference_steps,
        )


SYSTEMS: dict[str, Callable[[Models], System]] = {
    "ours": lambda m: our_editor(m.editor, m.preset.edit),
    "ours-text": lambda m: our_editor(m.editor, m.preset.edit, dial="s_T"),
    "sdedit": lambda m: m.sdedit("output"),
    "sdedit-instruction": lambda m: m.sdedit("edit"),
    "no-text": lambda m: m.sdedit("none"),
    "prompt-to-prompt": lambda m: m.prompt_to_prompt(),
    "text2live": lambda m: text2live(m.clip, LiveConfig.for_side(m.preset.edit.resolution)),
    "nothing": lambda m: nothing(),
    "truth": lambda m: exact_answer(),
}


def system(name: str, models: Models) -> System:
    """The system of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SYSTEMS:
        raise ValueError(f"a system must be one of {', '.join(SYSTEMS)}; got {name!r}")
    return SYSTEMS[name](models)
