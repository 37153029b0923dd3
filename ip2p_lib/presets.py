"""Presets: the miniature and full size. A preset is data; no code asks which one it has."""

from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    """How triplets are sampled. Defaults: timothybrooks/instruct-pix2pix@0dffd1e, generate_txt_dataset.py.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 0.7  # 0 takes the likeliest token
    top_p: float = 1.0
    frequency_penalty: float = 0.1
    max_new_tokens: int = 256
    attempts: int = 4  # per caption
    min_certainty: float | None = None  # deviation: reject captions with a token of lower log-probability
    min_instruction_certainty: float | None = None  # deviation: the same of instructions
    max_changes: int | None = None  # deviation: reject captions that change in more places
    batch_size: int = 32  # captions written, and put on record, together
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "attempts", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"WriteConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ValueError(f"WriteConfig.temperature must be at least 0, got {self.temperature}")
        if self.max_changes is not None and self.max_changes < 1:
            raise ValueError(f"WriteConfig.max_changes must be at least 1, got {self.max_changes}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"WriteConfig.top_p must lie in (0, 1], got {self.top_p}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """How a language model is fine-tuned on triplets. The paper leaves GPT-3's fine-tuning at its defaults.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: int = 140  # three passes over 750 triplets
    batch_size: int = 16
    learning_rate: float = 2e-4
    lora_rank: int = 16  # 0 trains all weights
    lora_alpha: int = 32
    warmup_steps: int = 10
    gradient_checkpointing: bool = True
    mixed_precision: str = "no"  # the model's own dtype decides; "bf16" to train float32 weights faster
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"TuneConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.lora_rank < 0:
            raise ValueError(f"TuneConfig.lora_rank must be at least 0, got {self.lora_rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """How candidates are drawn. Defaults: timothybrooks/instruct-pix2pix@0dffd1e, generate_img_dataset.py.

    Raises:
        ValueError: a range is empty or a count below 1.
    """

    candidates_per_triplet: int = 100
    num_inference_steps: int = 100
    p2p_threshold_range: tuple[float, float] = (0.1, 0.9)
    cfg_scale_range: tuple[float, float] = (7.5, 15.0)
    resolution: int = 512
    batch_size: int = 4  # candidates that share one UNet call
    triplets_per_shard: int = 64
    seed: int = 0
    thresholds_per_seed: int = 1  # deviation: so many candidates fork off one source, seed and scale
    # Deviations that save candidates; each asks CLIP while pairs are made.
    stop_after_hits: int | None = None  # a triplet is done with so many candidates that pass the filter
    give_up_after: int | None = None  # or after so many in a row that do not
    preview_at: float | None = None  # at this share of the steps, drop what the filter would clearly reject
    preview_slack: float = 0.1  # how far below its thresholds "clearly" begins

    def __post_init__(self) -> None:
        for name in (
            "candidates_per_triplet", "num_inference_steps", "batch_size", "triplets_per_shard",
            "thresholds_per_seed", "stop_after_hits", "give_up_after",
        ):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"PairConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.preview_at is not None and not 0 < self.preview_at < 1:
            raise ValueError(f"PairConfig.preview_at must lie between 0 and 1, got {self.preview_at}")
        for name in ("p2p_threshold_range", "cfg_scale_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"PairConfig.{name} must run from low to high, got {(low, high)}")

    @property
    def stops_early(self) -> bool:
        """Whether candidates depend on what CLIP says of others or of their previews."""
        return any(v is not None for v in (self.stop_after_hits, self.give_up_after, self.preview_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Cosines that a kept pair must reach (inclusive), and how many pairs a triplet may keep.

    Defaults: the paper's 0.75 for the image similarity (its code has 0.70), 0.2 elsewhere, best four
    by direction. They belong to ViT-L/14; another CLIP has its own score range.

    Raises:
        ValueError: a cosine outside [-1, 1], a shift outside [-2, 2] or a count below 1.
    """

    min_text: float = 0.2
    min_direction: float = 0.2
    min_image: float = 0.75
    max_per_triplet: int = 4
    min_shift: float = -2  # deviation: how far the picture moves along the text's direction; -2 asks nothing

    def __post_init__(self) -> None:
        for name in ("min_text", "min_direction", "min_image"):
            value = getattr(self, name)
            if not -1 <= value <= 1:
                raise ValueError(f"FilterConfig.{name} is a cosine and must lie in [-1, 1], got {value}")
        if not -2 <= self.min_shift <= 2:
            raise ValueError(
                f"FilterConfig.min_shift is a distance along a direction and must lie in [-2, 2], got {self.min_shift}"
            )
        if self.max_per_triplet < 1:
            raise ValueError(f"FilterConfig.max_per_triplet must be at least 1, got {self.max_per_triplet}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How the editor is fine-tuned. Defaults are the released configuration's.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: int = 10_000
    batch_size: int = 32
    gradient_accumulation_steps: int = 32  # 32 x 32 = 1024 on one device
    learning_rate: float = 1e-4
    conv_in_learning_rate: float | None = None  # deviation for small budgets: the new channels learn faster
    warmup_steps: int = 0
    decay_steps: int = 0  # deviation: over so many last steps the rate falls to a hundredth
    max_grad_norm: float | None = None  # 0 or None: no clipping
    conditioning_dropout: float = 0.05
    noisy_fraction: float = 0.0  # deviation: this share of timesteps is drawn from the noisier half only
    ema_decay: float = 0.9999
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False  # less memory, about a third more time; same result
    compile: bool = False
    resolution: int = 256
    flip: bool = True
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2  # the newest
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be at least 1, got {getattr(self, name)}")
        first = self.conv_in_learning_rate
        if first is not None and not 0 <= first < float("inf"):
            raise ValueError(f"TrainConfig.conv_in_learning_rate must be finite and at least 0, got {first}")
        if not 0 <= self.conditioning_dropout <= 1 / 3:
            raise ValueError(
                "TrainConfig.conditioning_dropout must lie in [0, 1/3] so that three events fit in one"
                f" draw, got {self.conditioning_dropout}"
            )
        if not 0 <= self.decay_steps <= self.steps:
            raise ValueError(
                f"TrainConfig.decay_steps must lie in 0..steps ({self.steps}), got {self.decay_steps}"
            )
        if not 0 <= self.noisy_fraction <= 1:
            raise ValueError(f"TrainConfig.noisy_fraction must lie in [0, 1], got {self.noisy_fraction}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditConfig:
    """Defaults of an edit: timothybrooks/instruct-pix2pix@0dffd1e, edit_cli.py.

    Raises:
        ValueError: a count is below 1; scales and sampler are looked at where they are used.
    """

    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    num_inference_steps: int = 100
    sampler: str = "euler_ancestral"
    resolution: int = 512
    multiple: int = 64  # sides are whole multiples of this many pixels
    restore_detail: bool = False  # deviation: put back what the autoencoder loses where nothing changed

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "resolution", "multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"EditConfig.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Which models to load and the sizes to run them at. Models are hub ids or local folders."""

    name: str
    text_to_image: str
    editor: str
    clip: str
    captions: str = ""  # "world", a file, or a dataset's hub id
    language_model: str = ""  # what becomes a writer
    seed_triplets: str = ""  # by being fine-tuned on these
    writer: str = ""  # language model that writes triplets
    examples: int = 0  # seed triplets that this writer is shown in its prompt
    manifest: str = ""  # folder whose checksums guard the weights; empty for none
    is_planned: bool = False  # whether `memory_plan` counts networks of these sizes
    write: WriteConfig = field(default_factory=WriteConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    edit: EditConfig = field(default_factory=EditConfig)


MINIATURE = Preset(
    name="miniature",
    text_to_image=str(DATA / "miniature" / "text_to_image"),
    editor=str(DATA / "miniature" / "editor"),
    clip=str(DATA / "miniature" / "clip"),
    captions="world",
    language_model=str(DATA / "miniature" / "language_model"),
    seed_triplets=str(DATA / "triplets" / "picture_world.jsonl"),
    writer=str(DATA / "miniature" / "writer"),
    manifest=str(DATA / "miniature"),
    write=WriteConfig(temperature=0.4, min_certainty=-0.3, max_new_tokens=80, batch_size=64),
    tune=TuneConfig(
        steps=100, batch_size=24, learning_rate=5e-4, lora_rank=0, warmup_steps=10,
        gradient_checkpointing=False, mixed_precision="auto",
    ),
    pairs=PairConfig(
        candidates_per_triplet=2, num_inference_steps=16, cfg_scale_range=(3.0, 5.0), resolution=64,
        batch_size=32, triplets_per_shard=32,
    ),
    filter=FilterConfig(min_text=0.8473, min_direction=0.8071, min_image=0.585),
    train=TrainConfig(
        steps=2_200, batch_size=32, gradient_accumulation_steps=1, learning_rate=9e-4,
        conv_in_learning_rate=4e-3, warmup_steps=100, decay_steps=850, max_grad_norm=1.0, noisy_fraction=0.5,
        ema_decay=0.995, mixed_precision="auto", resolution=64, checkpoint_every=250,
    ),
    edit=EditConfig(
        guidance_scale=2.5, image_guidance_scale=1.9, num_inference_steps=10, sampler="dpm++", resolution=64,
        multiple=32,
    ),
)  # fmt: skip

FULL = Preset(
    name="full",
    is_planned=True,
    text_to_image="stable-diffusion-v1-5/stable-diffusion-v1-5",
    editor="timbrooks/instruct-pix2pix",
    clip="ViT-L-14/openai",
    captions="ChristophSchuhmann/improved_aesthetics_6.5plus",
    language_model="Qwen/Qwen2.5-7B",
    seed_triplets=str(DATA / "triplets" / "photographs_and_art.jsonl"),
    writer="Qwen/Qwen2.5-7B",  # a base model, so it is shown how, until one of your own is fine-tuned
    examples=12,
)

PRESETS = {p.name: p for p in (MINIATURE, FULL)}


def preset(name: str) -> Preset:
    """Look a preset up by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
