"""The loop of diffusers' InstructPix2Pix script, restated, as the other side of a comparison.

Source: huggingface/diffusers@58eb52c, examples/instruct_pix2pix/train_instruct_pix2pix.py, lines 529 and 609-620
(average and optimiser), 779-787 (precision), 859-945 and 967 (the body of the loop), with its default settings and
the dropout and average that its README asks for. Written anew: parts may be replaced one by one, and draws be given.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.backbone import Backbone
from ip2p_lib.optimisation import make_accelerator
from ip2p_lib.presets import TrainConfig

Latents = tuple[Tensor, Tensor]  # of the edited picture, scaled; of the input picture, not
Texts = tuple[Tensor, Tensor]  # states of the instructions (B, T, D), and of "" (1, T, D)


class ScriptLoop:
    """What the script keeps between steps, and a step.

    Args:
        pixels: input and edited pictures, each (B, 3, H, W) in [-1, 1]; every step sees the same batch.
    """

    def __init__(
        self,
        base: Backbone,
        unet: UNet2DConditionModel,
        pixels: tuple[Tensor, Tensor],
        texts: list[str],
        config: TrainConfig,
    ) -> None:
        self.base, self.unet, self.texts, self.config = base, unet.train(), texts, config
        self.accelerator = make_accelerator(config.mixed_precision)
        self.dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        is_lower = self.dtype != torch.float32
        self.vae, self.text_encoder = (
            copy.deepcopy(part).to(self.dtype) if is_lower else part for part in (base.vae, base.text_encoder)
        )
        self.before, self.after = (p.to(unet.device) for p in pixels)
        self.optimizer = torch.optim.AdamW(
            unet.parameters(), lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )
        self.rates = get_scheduler("constant", optimizer=self.optimizer)
        self.average = EMAModel(unet.parameters())
        self.schedule = DDPMScheduler.from_config(base.scheduler.config)
        self.generator = torch.Generator(unet.device).manual_seed(0)

    def encode(self) -> Latents:
        """Latents by two calls of the autoencoder, at every visit."""
        posterior = self.vae.encode(self.after.to(self.dtype)).latent_dist
        latents = posterior.sample(self.generator) * self.vae.config.scaling_factor
        return latents, self.vae.encode(self.before.to(self.dtype)).latent_dist.mode()

    def read(self) -> Texts:
        """Text states by two calls of the text encoder, at every visit; tokens too."""
        with torch.no_grad():
            return self.text_encoder(self._tokens(self.texts))[0], self.text_encoder(self._tokens([""]))[0]

    def _tokens(self, texts: list[str]) -> Tensor:
        tokenizer = self.base.tokenizer
        tokens = tokenizer(
            texts, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
        )  # fmt: skip
        return tokens.input_ids.to(self.unet.device)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.unet.device)

    def loss(self, latents: Latents, texts: Texts, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss at these latents and texts; noise, timesteps and dropout are drawn unless given."""
        (target, condition), (states, null), count = latents, texts, len(self.texts)
        device, total = self.unet.device, self.schedule.config.num_train_timesteps
        drawn: Mapping[str, Tensor] = given or {
            "noise": self._normal(target.shape).to(target.dtype),
            "timesteps": torch.randint(0, total, (count,), generator=self.generator, device=device),
            "dropped": torch.rand(count, generator=self.generator, device=device),
        }
        probability, dropped = self.config.conditioning_dropout, drawn["dropped"]
        noisy = self.schedule.add_noise(target, drawn["noise"], drawn["timesteps"])
        states = torch.where((dropped < 2 * probability).view(-1, 1, 1), null, states)
        is_dropped = (dropped >= probability).to(target.dtype) * (dropped < 3 * probability).to(target.dtype)
        condition = (1 - is_dropped).view(-1, 1, 1, 1) * condition
        with self.accelerator.autocast():
            predicted = self.unet(torch.cat([noisy, condition], 1), drawn["timesteps"], states).sample
        return F.mse_loss(predicted.float(), drawn["noise"].float())

    def learn(self, loss: Tensor) -> None:
        """One step of the optimiser, and what the script reads off the device meanwhile."""
        gathered: Any = self.accelerator.gather(loss.repeat(len(self.texts)))
        gathered.mean().item()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.unet.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        self.average.step(self.unet.parameters())
        loss.detach().item()

    def step(
        self, latents: Callable[[], Latents] | None = None, texts: Callable[[], Texts] | None = None
    ) -> None:
        """A step as the script does it, or with latents or texts got in another way."""
        self.learn(self.loss((latents or self.encode)(), (texts or self.read)()))
