"""The editor's controls and how they lie on the page. Each has a visible label; none acts by itself."""

import base64
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from PIL import Image

from ip2p_lib import images
from ip2p_lib.course.session import MAX_SEED, Event, Scales
from ip2p_lib.course.uploads import MAX_UPLOAD
from ip2p_lib.course.views import VIEWS
from ip2p_lib.presets import EditConfig
from ip2p_lib.samplers import SAMPLERS
from ip2p_lib.scenes import Scene
from ip2p_lib.scenes.language import held_out_instruction, instruction
from ip2p_lib.scenes.world import edits

ORDINARY = ("make it night", "make it a watercolour painting", "add a rainbow", "make it snow")
WIDE, LABELLED = {"width": "98%"}, {"description_width": "8.5em"}
MAP_SHARES = (0.5, 1.0, 1.5, 2.0)  # of the preset's own scale, for both axes of the map


class Controls:
    """The widgets, by the names of the settings they stand for."""

    def __init__(self, config: EditConfig, pictures: tuple[str, ...]) -> None:
        self.config = config
        self.picture = widgets.Dropdown(
            options=pictures, value=None, description="Picture", style=LABELLED, tooltip="A shipped picture"
        )
        self.upload = widgets.FileUpload(
            accept="image/*",
            multiple=False,
            description="Upload a picture",
            tooltip=f"At most {MAX_UPLOAD // 2**20} MB",
        )
        self.instruction = widgets.Combobox(
            options=ORDINARY, ensure_option=False, continuous_update=False, description="Instruction",
            placeholder="what to change; Enter runs it", layout=WIDE, style=LABELLED,
        )  # fmt: skip
        self.guidance_scale = _scale("Text, s_T", config.guidance_scale, "How much the instruction counts")
        self.image_guidance_scale = _scale(
            "Picture, s_I", config.image_guidance_scale, "How much the edit stays with the picture"
        )
        self.num_inference_steps = widgets.BoundedIntText(
            config.num_inference_steps, min=1, max=1000, description="Steps", style=LABELLED
        )
        self.sampler = widgets.Dropdown(
            options=SAMPLERS, value=config.sampler, description="Sampler", style=LABELLED
        )
        self.seed = widgets.BoundedIntText(0, min=0, max=MAX_SEED, description="Seed", style=LABELLED)
        self.lock = widgets.Checkbox(True, description="keep the seed", indent=False, layout={"width": "9em"})
        self.reroll, self.run, self.stop = _button("Re-roll"), _button("Edit", "primary"), _button("Stop")
        self.undo, self.redo, self.keep = _button("Undo"), _button("Redo"), _button("Edit further")
        self.map, self.save, self.code = (
            _button("Map of scales"),
            _button("Save PNG"),
            _button("Copy as code"),
        )
        self.stop.disabled = self.undo.disabled = True
        self.view = widgets.Dropdown(options=VIEWS, description="View", style=LABELLED)
        self.share = widgets.IntSlider(50, 0, 100, description="Wipe, %", style=LABELLED, layout=WIDE)
        self.progress = widgets.IntProgress(0, 0, 1, description="Progress", style=LABELLED, layout=WIDE)
        self.status = widgets.HTML()
        self.pane = widgets.HTML()
        self.more = widgets.VBox()

    def layout(self) -> widgets.VBox:
        """All controls: what to edit, how, the picture, and what to do with it."""
        return widgets.VBox(
            [
                widgets.HBox([self.picture, self.upload]),
                self.instruction,
                self.guidance_scale,
                self.image_guidance_scale,
                widgets.HBox([self.num_inference_steps, self.sampler]),
                widgets.HBox([self.seed, self.lock, self.reroll]),
                widgets.HBox([self.run, self.stop, self.undo, self.redo, self.keep]),
                self.progress,
                self.status,
                self.pane,
                widgets.HBox([self.view, self.share]),
                widgets.HBox([self.map, self.save, self.code]),
                self.more,
            ]
        )

    def name_of(self, widget: Any) -> str:
        """Which setting a control stands for."""
        return next(name for name, value in vars(self).items() if value is widget)

    def suggest(self, scene: Scene) -> None:
        """Offer instructions that are possible for this picture, one of each kind."""
        by_kind = {e.kind: e for e in edits(scene)}
        self.instruction.options = tuple(dict.fromkeys(
            [instruction(e, 1) for e in by_kind.values()] + [held_out_instruction(e, 1) for e in by_kind.values()]
        ))  # fmt: skip

    def map_scales(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Values of s_T and of s_I on the map, around the preset's own."""
        own = self.config.guidance_scale, self.config.image_guidance_scale
        first, second = (tuple(round(value * share, 2) for share in MAP_SHARES) for value in own)
        return first, second

    def show(self, picture: Image.Image, alt: str, height: int) -> None:
        """Put a picture, with the words for it, on the page."""
        self.pane.value = as_html(picture, alt, height)

    def show_map(self, event: Event, choose: Callable[[Scales], None]) -> None:
        """The edits at all pairs of scales, each with a button that opens it."""
        cells = [
            widgets.VBox(
                [widgets.HTML(as_html(p, f"the edit at s_T {t:g}, s_I {i:g}", 96)), _opener((t, i), choose)]
            )
            for p, (t, i) in zip(event.pictures, event.scales, strict=True)
        ]
        columns = len({t for t, _ in event.scales})
        box = widgets.GridBox(cells, layout={"grid_template_columns": f"repeat({columns}, 8.5em)"})
        self.more.children = (widgets.HTML("s_T grows to the right, s_I downwards"), box)

    def show_code(self, text: str) -> None:
        """The lines that repeat an edit, in a box to copy from."""
        rows = text.count("\n") + 2
        area = widgets.Textarea(text, description="Code", layout={"width": "98%"}, rows=rows, style=LABELLED)
        self.more.children = (area,)


def _scale(label: str, value: float, tooltip: str) -> widgets.FloatSlider:
    most = max(6.0, 2 * value)
    return widgets.FloatSlider(
        value, min=0, max=most, step=0.1, description=label, tooltip=tooltip, layout=WIDE, style=LABELLED
    )


def _button(label: str, style: str = "") -> widgets.Button:
    return widgets.Button(description=label, button_style=style, tooltip=label, layout={"width": "auto"})


def _opener(scales: Scales, choose: Callable[[Scales], None]) -> widgets.Button:
    button = _button(f"{scales[0]:g}, {scales[1]:g}")
    button.tooltip = f"Open the edit at s_T {scales[0]:g}, s_I {scales[1]:g}"
    button.on_click(lambda _: choose(scales))
    return button


def as_html(picture: Image.Image, alt: str, height: int) -> str:
    """An enlarged picture with alt text."""
    data = base64.b64encode(images.png_bytes(picture)).decode()
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" '
        f'style="height:{height}px;max-width:100%;object-fit:contain;image-rendering:pixelated">'
    )
