"""The editor: widgets around an `EditSession`. `editor()` in a cell shows it; every control has its twin in code."""

import html
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image

from ip2p_lib import images, storage
from ip2p_lib.backbone import load_editor, load_judge, pick_device
from ip2p_lib.course.answers import answer_to, in_words
from ip2p_lib.course.controls import Controls
from ip2p_lib.course.history import Entry, as_code
from ip2p_lib.course.session import EditSession, Event
from ip2p_lib.course.uploads import read_upload
from ip2p_lib.course.views import compose
from ip2p_lib.judge import Judge
from ip2p_lib.presets import DATA, MINIATURE, Preset
from ip2p_lib.scenes import Scene

SHOWN_HEIGHT = 288  # pixels on the page


def gallery() -> dict[str, tuple[Path, Scene]]:
    """The shipped pictures to edit, by name, with the scenes behind them."""
    found = storage.read_json(DATA / "gallery" / "scenes.json")
    return {
        name: (DATA / "gallery" / f"{name}.png", Scene(**{**scene, "extras": tuple(scene["extras"])}))
        for name, scene in found.items()
    }


def guarded(method: Callable[..., None]) -> Callable[..., None]:
    """A callback whose errors become a line in the status. JupyterLab would hide them.

    With IP2P_TESTING=1 they are raised too.
    """

    @wraps(method)
    def call(self: "Editor", *args: Any) -> None:
        try:
            method(self, *args)
        except Exception as error:
            self.session.last_error = error
            self.say(str(error), is_error=True)
            if os.environ.get("IP2P_TESTING"):
                raise

    return call


class Editor:
    """The view. Nothing is computed until a control is used; `close` ends the worker."""

    def __init__(self, session: EditSession, judge: Judge | None = None, model: str | None = None) -> None:
        self.session, self.judge, self.model = session, judge, model
        self.gallery = gallery()
        self.controls = c = Controls(session.preset.edit, tuple(self.gallery))
        self._is_setting = False  # while the view itself moves a control
        self._shown: Image.Image | None = None  # the edit or preview on show
        session.listen(self._on_event)
        self._wire()
        self.root = c.layout()
        c.picture.value = next(iter(self.gallery))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.root._repr_mimebundle_(**options)

    def _wire(self) -> None:
        c = self.controls
        c.picture.observe(self._on_picture, names="value")
        c.upload.observe(self._on_upload, names="value")
        c.instruction.observe(self._on_instruction, names="value")
        for slider in (c.guidance_scale, c.image_guidance_scale):
            slider.observe(self._on_slider, names="value")
        for setting in (c.num_inference_steps, c.seed, c.sampler):
            setting.observe(self._on_setting, names="value")
        for look in (c.view, c.share):
            look.observe(self._on_look, names="value")
        for button, action in (
            (c.run, self._on_run), (c.stop, self._on_stop), (c.reroll, self._on_reroll),
            (c.undo, self._on_undo), (c.redo, self._on_redo), (c.keep, self._on_keep),
            (c.map, self._on_map), (c.save, self._on_save), (c.code, self._on_code),
        ):  # fmt: skip
            button.on_click(action)

    def say(self, text: str, *, is_error: bool = False) -> None:
        """Put a line into the status, which screen readers announce."""
        mark = "<b>Please note:</b> " if is_error else ""
        self.controls.status.value = (
            f'<span role="status" aria-live="polite">{mark}{html.escape(text)}</span>'
        )

    # What the person does.

    @guarded
    def _on_picture(self, change: dict[str, Any]) -> None:
        if change["new"] in self.gallery and not self._is_setting:
            path, scene = self.gallery[change["new"]]
            self.session.open(images.open_picture(path), scene=scene, name=change["new"])
            self.controls.suggest(scene)

    @guarded
    def _on_upload(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        name, data = change["new"][0]["name"], bytes(change["new"][0]["content"])
        self.controls.upload.value = ()  # the same file may be sent again
        self.session.open(read_upload(data, name), name=name)
        self._set(picture=None)

    @guarded
    def _on_instruction(self, change: dict[str, Any]) -> None:
        if self._is_setting or not change["new"]:
            return
        self.session.set(instruction=change["new"])
        self.session.run()

    @guarded
    def _on_slider(self, change: dict[str, Any]) -> None:
        self._changed(change, self.session.preview)

    @guarded
    def _on_setting(self, change: dict[str, Any]) -> None:
        self._changed(change, self.session.run)

    def _changed(self, change: dict[str, Any], then: Callable[[], object]) -> None:
        if self._is_setting:
            return
        self.session.set(**{self.controls.name_of(change["owner"]): change["new"]})
        if self._is_asked():
            then()

    def _is_asked(self) -> bool:
        """Whether the box asks for something, which the session then knows."""
        words = self.controls.instruction.value
        if words and words != self.session.settings.instruction:
            self.session.set(instruction=words)
        return bool(words)

    @guarded
    def _on_run(self, _: Any) -> None:
        self.session.set(instruction=self.controls.instruction.value)
        if not self.controls.lock.value and self._is_done():
            self._set(seed=self.session.reroll())
        self.session.run()

    def _is_done(self) -> bool:
        """Whether what the controls say is on show already."""
        entry = self.session.history.current
        return entry is not None and entry.settings == self.session.settings

    @guarded
    def _on_reroll(self, _: Any) -> None:
        self._set(seed=self.session.reroll())
        if self._is_asked():
            self.session.run()

    @guarded
    def _on_stop(self, _: Any) -> None:
        self.session.stop()

    @guarded
    def _on_undo(self, _: Any) -> None:
        self.session.undo()
        self._follow()

    @guarded
    def _on_redo(self, _: Any) -> None:
        self.session.redo()
        self._follow()

    @guarded
    def _on_keep(self, _: Any) -> None:
        self.session.keep()
        self._set(picture=None, instruction="")

    @guarded
    def _on_map(self, _: Any) -> None:
        self.session.set(instruction=self.controls.instruction.value)
        self.session.guidance_map(*self.controls.map_scales())
        self.say("computing the map of both scales")

    @guarded
    def _on_save(self, _: Any) -> None:
        entry = self._entry()
        folder = Path("out") / "edits"
        path = folder / f"{entry.source.digest[:8]}-{storage.fingerprint(entry.settings)[:8]}.png"
        entry.result.save(path)
        self.say(f"saved {path}, with its recipe inside; `ip2p edit --recipe` repeats it")

    @guarded
    def _on_code(self, _: Any) -> None:
        entry = self._entry()
        name = entry.source.name
        file = self.gallery[name][0] if name in self.gallery else Path(name)
        self.controls.show_code(as_code(entry, self.session.preset.name, file, self.model))

    def _entry(self) -> Entry:
        entry = self.session.history.current
        if entry is None:
            raise ValueError("there is no finished edit yet; run one first")
        return entry

    # What the session tells.

    def _on_event(self, event: Event) -> None:
        c = self.controls
        c.stop.disabled = event.kind not in ("progress", "preview")
        if event.kind == "progress":
            c.progress.max, c.progress.value = event.count, event.step
            return
        if event.kind in ("source", "preview", "edit"):
            self._shown = None if event.kind == "source" else event.pictures[0]
            self._look()
        if event.kind == "map":
            c.show_map(event, self._on_open)
        text = event.text
        if event.kind == "edit" and (entry := self.session.history.current) is not None:
            text = f"{event.text}. {in_words(entry, self.judge)}"
        self.say(text, is_error=event.kind == "error")
        c.undo.disabled = self.session.history.position < 0

    @guarded
    def _on_open(self, scales: tuple[float, float]) -> None:
        """A place on the map was chosen."""
        self._set(guidance_scale=scales[0], image_guidance_scale=scales[1])
        self.session.set(guidance_scale=scales[0], image_guidance_scale=scales[1])
        self.session.run()

    @guarded
    def _on_look(self, _: Any) -> None:
        self._look()

    def _look(self) -> None:
        source, c = self.session.source, self.controls
        if source is None:
            return
        if self._shown is None:
            c.show(source.picture, f"The picture to edit: {source.name}", SHOWN_HEIGHT)
            return
        answer = answer_to(source.scene, self.session.settings.instruction, source.picture.size)
        picture, words = compose(c.view.value, source.picture, self._shown, answer, c.share.value / 100)
        c.show(picture, f"{source.name}, {self.session.settings.instruction}: {words}", SHOWN_HEIGHT)

    def _set(self, **values: Any) -> None:
        """Move controls without acting on it."""
        self._is_setting = True
        try:
            for name, value in values.items():
                getattr(self.controls, name).value = value
        finally:
            self._is_setting = False

    def _follow(self) -> None:
        """Controls follow the session after undo and redo."""
        s, source = self.session.settings, self.session.source
        self._set(
            picture=source.name if source and source.name in self.gallery else None,
            instruction=s.instruction, guidance_scale=s.guidance_scale, seed=s.seed, sampler=s.sampler,
            image_guidance_scale=s.image_guidance_scale, num_inference_steps=s.num_inference_steps,
        )  # fmt: skip

    def close(self) -> None:
        """Stop, end the worker and take the widgets off the page."""
        self.session.close()
        self.root.close()


def editor(preset: Preset = MINIATURE, model: str | None = None) -> Editor:
    """An editor for a cell: `editor()`. With another preset or model folder, the same window for other weights.

    Raises:
        FileNotFoundError, ValueError: the model is missing or damaged.
    """
    device, dtype, _ = pick_device()
    judge = load_judge(preset) if preset.manifest else None
    session = EditSession(load_editor(preset, model, device=device, dtype=dtype), preset)
    return Editor(session, judge, model)
