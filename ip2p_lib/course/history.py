"""What a session remembers: settings, sources, finished edits, and the way back."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ip2p_lib.editing import EditResult
from ip2p_lib.presets import DATA
from ip2p_lib.scenes import Scene


@dataclass(frozen=True, slots=True)
class Settings:
    """What the controls say."""

    instruction: str
    guidance_scale: float
    image_guidance_scale: float
    num_inference_steps: int
    sampler: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """The picture being edited, at the size it is edited at; its scene where the world drew it."""

    picture: Image.Image
    digest: str  # of the picture as it was given
    scene: Scene | None = None
    name: str = "picture"
    is_edit: bool = False  # of an edit that went on, which is no file


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished edit, with all that led to it."""

    source: Source
    settings: Settings
    result: EditResult


@dataclass(slots=True)
class History:
    """Finished edits in order, and which of them is on show. Undo before the first shows none."""

    entries: list[Entry] = field(default_factory=list)
    position: int = -1

    @property
    def current(self) -> Entry | None:
        """The edit on show."""
        return self.entries[self.position] if self.position >= 0 else None

    def add(self, entry: Entry) -> None:
        """Put an edit behind the one on show; what had been undone is gone. The same edit again is not added."""
        if self.current != entry:
            self.entries = [*self.entries[: self.position + 1], entry]
            self.position = len(self.entries) - 1

    def undo(self) -> Entry:
        """Step back; returns the entry stepped away from.

        Raises:
            ValueError: nothing is left to undo.
        """
        if self.position < 0:
            raise ValueError("there is nothing to undo")
        self.position -= 1
        return self.entries[self.position + 1]

    def redo(self) -> Entry:
        """Step forward again; returns the entry stepped to.

        Raises:
            ValueError: nothing was undone.
        """
        if self.position + 1 >= len(self.entries):
            raise ValueError("there is nothing to redo")
        self.position += 1
        return self.entries[self.position]


def as_code(entry: Entry, preset_name: str, file: Path, model: str | None = None) -> str:
    """Lines of Python that repeat an edit of a picture file, with the preset's editor or another model.

    Raises:
        ValueError: the picture is itself an edit, and no file.
    """
    if entry.source.is_edit:
        raise ValueError(
            "this edit went on from another one, which is no file; go back to that, save it, and edit the file"
        )
    s, of_data = entry.settings, file.is_relative_to(DATA)
    path = f"DATA / {file.relative_to(DATA).as_posix()!r}" if of_data else f"Path({file.as_posix()!r})"
    known = "DATA, preset" if of_data else "preset"
    editor = f"load_editor(chosen, {model!r})" if model else "load_editor(chosen)"
    return f"""\
from pathlib import Path

from ip2p_lib import images
from ip2p_lib.backbone import load_editor
from ip2p_lib.editing import edit
from ip2p_lib.presets import {known}

chosen = preset({preset_name!r})
picture = images.open_picture({path})
(result,) = edit(
    {editor},
    picture,
    {s.instruction!r},
    config=chosen.edit,
    guidance_scale={s.guidance_scale!r},
    image_guidance_scale={s.image_guidance_scale!r},
    num_inference_steps={s.num_inference_steps!r},
    sampler={s.sampler!r},
    seed={s.seed!r},
)
result.save(Path("edit.png"))
"""
