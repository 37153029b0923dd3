"""Training: one command on a laptop, on one GPU, or started by `accelerate launch` on many."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import Folder, PresetName, app, given, one_line_errors, quiet, writable
from ip2p_lib.cli.plan import tell_memory

Column = Annotated[str | None, typer.Option(help="That column's name in the pairs, if it is not found")]


@app.command()
@one_line_errors
def train(
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder of pairs: ours, the released set's, MagicBrush's, or diffusers'"),
    ],
    out: Folder,
    preset: PresetName = "miniature",
    model: Annotated[
        str | None, typer.Option(help="Text-to-image model or editor to start from: folder, file or hub id")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimiser steps; a finished run goes on with more if it had --decay-steps 0"),
    ] = None,
    decay_steps: Annotated[
        int | None, typer.Option(help="The last steps, over which the rate falls to a hundredth")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per micro-step, over all processes")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Micro-steps per optimiser step")] = None,
    learning_rate: float | None = None,
    conv_in_learning_rate: Annotated[
        float | None, typer.Option(help="Of the first convolution, if another")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="The first steps, over which the rate rises")
    ] = None,
    conditioning_dropout: Annotated[
        float | None, typer.Option(help="Chance of each of: no text, no picture, neither")
    ] = None,
    noisy_fraction: Annotated[
        float | None, typer.Option(help="Share of timesteps drawn from the noisier half only")
    ] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Of the averaged weights")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Mirror half of the pairs; never those that say left or right"),
    ] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Clip gradients to this norm; 0 for no clipping")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="no, bf16, fp16 or auto")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the square pictures")] = None,
    crops: Annotated[int, typer.Option(help="Random crops of each pair; 1 takes the whole picture")] = 1,
    lora_rank: Annotated[int | None, typer.Option(help="Train an adapter of this rank instead")] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile; slow to start")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time")
    ] = False,
    original_image_column: Column = None,
    edit_prompt_column: Column = None,
    edited_image_column: Column = None,
    held_out: Annotated[float, typer.Option(help="Share of prompts kept for the validation loss")] = 0.0,
    sheet_every: Annotated[
        int,
        typer.Option(
            help="Steps between sheets of edits, held-out ones if there are any, in TensorBoard; 0 for none"
        ),
    ] = 500,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(help="So many of the newest are kept")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where encoded pairs are kept; default DATA/.latents")
    ] = None,
    save_only: Annotated[
        bool, typer.Option("--save-only", help="No step more: write the editor of the newest checkpoint")
    ] = False,
    seed: int = 0,
) -> None:
    """Fine-tune a text-to-image model, or an editor, on edit pairs; progress and sheets in OUT/log."""
    from dataclasses import replace

    from ip2p_lib.optimisation import is_sharded, launched_precision, processes
    from ip2p_lib.presets import preset as find
    from ip2p_lib.training.run import fit_config

    chosen = find(preset)
    options = given(
        steps=steps, batch_size=batch_size, gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate, max_grad_norm=max_grad_norm, mixed_precision=precision or launched_precision(),
        resolution=resolution, checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints,
        conv_in_learning_rate=conv_in_learning_rate, warmup_steps=warmup_steps, ema_decay=ema_decay, flip=flip,
        conditioning_dropout=conditioning_dropout, noisy_fraction=noisy_fraction,
    )  # fmt: skip
    wanted = chosen.train.decay_steps if decay_steps is None else decay_steps
    options["decay_steps"] = min(wanted, options.get("steps", chosen.train.steps))
    if learning_rate is not None and conv_in_learning_rate is None and chosen.train.conv_in_learning_rate:
        share = chosen.train.conv_in_learning_rate / chosen.train.learning_rate
        options["conv_in_learning_rate"] = share * learning_rate
    config = replace(
        chosen.train,
        seed=seed,
        compile=compile_,
        gradient_checkpointing=gradient_checkpointing,
        **options,
    )
    fit_config(config)  # what is out of range is refused before anything is loaded
    writable(out)
    quiet()
    if processes().is_main_process:
        count = processes().num_processes
        tell_memory(
            "train", chosen, config.mixed_precision, resolution=config.resolution, lora_rank=lora_rank,
            batch=max(1, config.batch_size // count), processes=count if is_sharded() else 1,
            gradient_checkpointing=gradient_checkpointing,
        )  # fmt: skip
    columns = given(
        original_image=original_image_column, edit_prompt=edit_prompt_column, edited_image=edited_image_column
    )
    run = _Run(chosen, config, data, out, model, lora_rank, held_out, crops, cache, columns)
    if run.was_editor and conv_in_learning_rate is None:  # the preset's higher one is for new channels
        run.config = replace(config, conv_in_learning_rate=None)
    if save_only:
        run.check()
    else:
        run.train(sheet_every)
    processes().destroy_process_group()  # one that ends with its connections open may abort, and fail the others
    if processes().is_main_process:
        typer.echo(run.save())


class _Run:
    """What the command holds in its hands: model, pairs, configuration."""

    def __init__(
        self,
        preset: Any,
        config: Any,
        data: Path,
        out: Path,
        model: str | None,
        lora_rank: int | None,
        held_out: float,
        crops: int,
        cache: Path | None,
        columns: dict[str, str],
    ) -> None:
        import torch

        from ip2p_lib import backbone as models
        from ip2p_lib.dataset import open_dataset
        from ip2p_lib.optimisation import processes

        self.preset, self.config, self.out, self.processes = preset, config, out, processes()
        self.base = models.load_backbone(
            model or preset.text_to_image,
            manifest="" if model else preset.manifest,
        )
        # The UNet stays behind: training needs a copy on the device, and not the one that it was copied from.
        for part in (self.base.vae, self.base.text_encoder):
            torch.nn.Module.to(part, self.processes.device)
        self.parts = {
            part: open_dataset(
                data,
                self.base,
                resolution=config.resolution,
                crops=crops,
                held_out=held_out,
                part=part,
                cache=cache,
                columns=columns,
                crew=self.processes,
            )
            for part in (("train", "held_out") if held_out else ("train",))
        }
        self.lora_rank = lora_rank
        self.was_editor = self.base.unet.config.in_channels > self.base.latent_channels

    def untrained(self) -> Any:
        """The network as training begins, on the processor's side: with an adapter if asked for."""
        from ip2p_lib.lora import add_lora
        from ip2p_lib.unet import as_editor_unet

        unet, rank = as_editor_unet(self.base.unet, self.base.latent_channels), self.lora_rank
        if rank is not None:
            add_lora(unet, rank, rank, train_conv_in=not self.was_editor, seed=self.config.seed)
        return unet

    def check(self) -> None:
        """Whether the run of this folder began with this model, and learned from these pairs."""
        from ip2p_lib.training import check_run

        check_run(self.untrained(), self.base, self.parts["train"], self.out / "run")

    def train(self, sheet_every: int) -> None:
        """All steps, with a bar in the main process."""
        from tqdm import tqdm

        from ip2p_lib import storage
        from ip2p_lib.backbone import weights_mark
        from ip2p_lib.lora import store_frozen
        from ip2p_lib.optimisation import compute_dtype, is_sharded
        from ip2p_lib.training import EditSheet, train_editor, watched

        is_main = self.processes.is_main_process
        shown = self.parts.get("held_out", self.parts["train"])
        unet, mark = self.untrained(), None
        if self.lora_rank is not None:
            mark = weights_mark(unet)
            if not is_sharded():
                store_frozen(unet, compute_dtype(self.config.mixed_precision))
        base = self.base.with_unet(unet.to(self.processes.device), self.base.name)
        sheet = EditSheet(base, shown, self.preset.edit) if sheet_every else None
        reports = watched(
            train_editor(unet, base, self.parts["train"], self.config, self.out / "run", mark=mark),
            self.config,
            self.out / "log" if is_main else None,
            sheet=sheet,
            sheet_every=sheet_every or 1,
        )
        losses = self.losses()
        with tqdm(total=self.config.steps, unit="step", disable=not is_main) as bar:
            for report, progress in reports:
                bar.update(report.step - bar.n)
                if progress:
                    bar.set_postfix_str(str(progress))
                    losses[progress.step] = progress.loss
                    if is_main:
                        storage.write_json(self._record, losses)

    @property
    def _record(self) -> Path:
        """Mean losses by step, of all parts of a run that was stopped and continued."""
        return self.out / "run" / "losses.json"

    def losses(self) -> dict[int, float]:
        """What the record holds, in the order of steps."""
        from ip2p_lib import storage

        found = storage.read_json(self._record) if self._record.exists() else {}
        return {int(step): found[step] for step in sorted(found, key=int)}

    def save(self) -> str:
        """The averaged weights: adapter or whole editor, with a card; says what was written."""
        from ip2p_lib.lora import merge_lora, save_lora
        from ip2p_lib.optimisation import load_average
        from ip2p_lib.training import validation_loss, write_card
        from ip2p_lib.unet import save_pipeline

        unet, is_lora, loss = self.untrained().eval(), self.lora_rank is not None, None
        load_average(self.out / "run", unet)  # the trained one may lie in parts on several devices
        base = self.base.with_unet(unet.to(self.processes.device), "editor")
        if "held_out" in self.parts:
            loss = validation_loss(unet, base, self.parts["held_out"], self.config)
        unet.to("cpu")  # copies that are made to be written need not fit beside it on the device
        if is_lora and self.was_editor:
            save_lora(unet, self.out / "lora.safetensors")
        whole = merge_lora(unet) if is_lora else unet
        save_pipeline(base.with_unet(whole, "editor"), self.out / "editor")
        write_card(self.out / "run", self.out / "editor" / "README.md", list(self.losses().items()), loss)
        also = " and lora.safetensors" if is_lora and self.was_editor else ""
        return f"{self.out / 'editor'}{also}"
