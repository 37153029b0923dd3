"""Watch a run: the numbers of its progress, a TensorBoard log, sheets of what the model can do by now."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ip2p_lib import images
from ip2p_lib.backbone import Backbone
from ip2p_lib.dataset import EditDataset
from ip2p_lib.editing import edit_latents
from ip2p_lib.lora import computing
from ip2p_lib.optimisation import Report
from ip2p_lib.presets import EditConfig, TrainConfig
from ip2p_lib.training.run import fit_config

ROWS = ("input", "unconditional", "picture alone", "picture and instruction", "answer")


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of a stretch of steps."""

    step: int
    loss: float  # mean over the stretch
    learning_rate: float
    pairs_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        """As a progress bar shows it."""
        return f"loss {self.loss:.4f}, rate {self.learning_rate:.1e}, {self.pairs_per_second:.1f} pairs/s"


def watched(
    reports: Iterable[Report],
    config: TrainConfig,
    log: Path | None = None,
    *,
    every: int = 20,
    sheet: Callable[[Any], Tensor] | None = None,
    sheet_every: int = 500,
) -> Iterator[tuple[Report, Progress | None]]:
    """Pass reports on, with a `Progress` every so many steps and at the end; losses are read only then.

    Args:
        log: folder for TensorBoard: loss, rate and speed by step, and the sheets.
        sheet: draws the model, with its averaged weights, as pixels (1, 3, H, W) in [-1, 1]. Given to one
            of several processes it must be given to all: a sharded model is drawn by all of them together.
    """
    rates = fit_config(config)
    total, count, started = None, 0, time.monotonic()
    writer = _writer(log) if log else None
    for report in reports:
        total = report.loss if total is None else total + report.loss
        count += 1
        progress = None
        is_due = report.step % every == 0 or report.step == config.steps
        if is_due and not torch.isnan(total):  # as of a run that had been finished before
            took = (time.monotonic() - started) / count
            progress = Progress(
                report.step,
                (total / count).item(),
                config.learning_rate * rates.rate_at(report.step - 1),
                config.batch_size * config.gradient_accumulation_steps / took,
                took * (config.steps - report.step),
            )
            if writer:
                _log_numbers(writer, progress)
        if is_due:
            total, count, started = None, 0, time.monotonic()
        if sheet and (report.step % sheet_every == 0 or report.step == config.steps):
            paused = time.monotonic()
            picture = (drawn(report, sheet)[0] + 1) / 2
            if writer:
                writer.add_image("edits", picture, report.step)
                writer.flush()
            started += time.monotonic() - paused
        yield report, progress
    if writer:
        writer.close()


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def _log_numbers(writer: Any, progress: Progress) -> None:
    for name in ("loss", "learning_rate", "pairs_per_second"):
        writer.add_scalar(name, getattr(progress, name), progress.step)


def drawn(report: Report, sheet: Callable[[Any], Tensor]) -> Tensor:
    """A sheet of the averaged model; training goes on afterwards as if nothing had happened."""
    report.ema.swap()
    report.model.eval()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # shards are gathered on a stream that does not wait for the swap
    try:
        return sheet(report.model)
    finally:
        report.model.train()
        report.ema.swap()


class EditSheet:
    """Fixed held-out edits, drawn again at every visit with the same noise: a column for each, rows as `ROWS`."""

    def __init__(self, backbone: Backbone, data: EditDataset, config: EditConfig, count: int = 6) -> None:
        self._backbone, self._config = backbone, config
        pairs, ways = data.picks(0, min(count, len(data)), 0, flip=False)
        mean, _, self._condition = data.latents(pairs, ways)
        self.instructions = [data.instructions[p] for p in pairs]
        scale = backbone.vae.config.scaling_factor
        self._input, self._answer = self._decoded(self._condition * scale), self._decoded(mean)

    @torch.no_grad()
    def __call__(self, unet: Any) -> Tensor:
        """Pixels (1, 3, rows * H, columns * W) in [-1, 1]."""
        both = (self._config.guidance_scale, self._config.image_guidance_scale)
        made = [self._edited(unet, *scales) for scales in ((0.0, 0.0), (0.0, 1.0), both)]
        rows = [torch.cat(list(row.cpu()), dim=-1) for row in (self._input, *made, self._answer)]
        return torch.cat(rows, dim=-2)[None]

    def _edited(self, unet: Any, guidance_scale: float, image_guidance_scale: float) -> Tensor:
        editor, count = self._backbone.with_unet(unet, "in training"), len(self.instructions)
        with computing(unet):
            *_, last = edit_latents(
                editor,
                self._condition.to(editor.device, self._backbone.vae.dtype),
                editor.encode_text(self.instructions),
                editor.encode_text([""]),
                guidance_scales=[guidance_scale] * count,
                image_guidance_scales=[image_guidance_scale] * count,
                seeds=list(range(count)),
                num_inference_steps=self._config.num_inference_steps,
                sampler=self._config.sampler,
            )
        return self._decoded(last.latents)

    def _decoded(self, latents: Tensor) -> Tensor:
        """One by one: the decoder takes more memory than a training step leaves for six at a time."""
        decode, device = self._backbone.decode_latents, self._backbone.vae.device
        return torch.cat([decode(row.to(device)) for row in latents.split(1)])

    def save(self, unet: Any, path: Path) -> None:
        """Write the sheet as a PNG."""
        images.to_pictures(self(unet))[0].save(path)
