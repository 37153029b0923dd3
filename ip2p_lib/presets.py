"""Presets: the miniature and full size. A preset is data; no code asks which one it has."""

from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


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

    def __post_init__(self) -> None:
        for name in ("candidates_per_triplet", "num_inference_steps", "batch_size", "triplets_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"PairConfig.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("p2p_threshold_range", "cfg_scale_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"PairConfig.{name} must run from low to high, got {(low, high)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Cosines that a kept pair must reach (inclusive), and how many pairs a triplet may keep.

    Defaults: the paper's 0.75 for the image similarity (its code has 0.70), 0.2 elsewhere, best four
    by direction. They belong to ViT-L/14; another CLIP has its own score range.

    Raises:
        ValueError: a cosine outside [-1, 1] or a count below 1.
    """

    min_text: float = 0.2
    min_direction: float = 0.2
    min_image: float = 0.75
    max_per_triplet: int = 4

    def __post_init__(self) -> None:
        for name in ("min_text", "min_direction", "min_image"):
            value = getattr(self, name)
            if not -1 <= value <= 1:
                raise ValueError(f"FilterConfig.{name} is a cosine and must lie in [-1, 1], got {value}")
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
    cosine_decay: bool = False
    conditioning_dropout: float = 0.05
    noisy_fraction: float = 0.0  # deviation: this share of timesteps is drawn from the noisier half only
    ema_decay: float = 0.9999
    mixed_precision: str = "no"
    resolution: int = 256
    flip: bool = True
    checkpoint_every: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.conditioning_dropout <= 1 / 3:
            raise ValueError(
                "TrainConfig.conditioning_dropout must lie in [0, 1/3] so that three events fit in one"
                f" draw, got {self.conditioning_dropout}"
            )
        if not 0 <= self.noisy_fraction <= 1:
            raise ValueError(f"TrainConfig.noisy_fraction must lie in [0, 1], got {self.noisy_fraction}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EditConfig:
    """Defaults of an edit: timothybrooks/instruct-pix2pix@0dffd1e, edit_cli.py."""

    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    num_inference_steps: int = 100
    resolution: int = 512
    multiple: int = 64  # sides are whole multiples of this many pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Which models to load and the sizes to run them at. Models are hub ids or local folders."""

    name: str
    text_to_image: str
    editor: str
    clip: str
    manifest: str = ""  # folder whose checksums guard the weights; empty for none
    pairs: PairConfig = field(default_factory=PairConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    edit: EditConfig = field(default_factory=EditConfig)


MINIATURE = Preset(
    name="miniature",
    text_to_image=str(DATA / "miniature" / "text_to_image"),
    editor=str(DATA / "miniature" / "editor"),
    clip=str(DATA / "miniature" / "clip"),
    manifest=str(DATA / "miniature"),
    pairs=PairConfig(
        candidates_per_triplet=2, num_inference_steps=16, cfg_scale_range=(3.0, 5.0), resolution=64,
        batch_size=32, triplets_per_shard=32,
    ),
    filter=FilterConfig(min_text=0.8473, min_direction=0.8071, min_image=0.585),
    train=TrainConfig(
        steps=1_500, batch_size=32, gradient_accumulation_steps=1, learning_rate=6e-4,
        conv_in_learning_rate=4e-3, warmup_steps=100, cosine_decay=True, noisy_fraction=0.5,
        ema_decay=0.995, mixed_precision="bf16", resolution=64, checkpoint_every=250,
    ),
    edit=EditConfig(
        guidance_scale=1.5, image_guidance_scale=1.5, num_inference_steps=20, resolution=64, multiple=32
    ),
)  # fmt: skip

FULL = Preset(
    name="full",
    text_to_image="stable-diffusion-v1-5/stable-diffusion-v1-5",
    editor="timbrooks/instruct-pix2pix",
    clip="ViT-L-14/openai",
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
