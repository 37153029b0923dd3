"""An editing session without widgets: previews, the latest request wins, history, chained edits, recipes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from ip2p_lib import images
from ip2p_lib.backbone import Backbone, check_instruction
from ip2p_lib.course.history import Entry, History, Settings, Source
from ip2p_lib.course.worker import Job, Worker
from ip2p_lib.diffusion import Step
from ip2p_lib.editing import EditResult, Memory, check_scales, recipe_of, resized, sampled, shown
from ip2p_lib.presets import Preset
from ip2p_lib.records import Recipe
from ip2p_lib.samplers import check_sampler
from ip2p_lib.scenes import Scene
from ip2p_lib.scenes.reading import read_instruction

PREVIEW_STEPS, REMEMBERED, MAX_SEED = 4, 64, 2**31 - 1
Scales = tuple[float, float]  # s_T, s_I


@dataclass(frozen=True, slots=True)
class Event:
    """What listeners are told. Kinds: source, progress, preview, edit, map, stopped, error."""

    kind: str
    text: str
    step: int = 0  # of a progress, from 1
    count: int = 0
    pictures: tuple[Image.Image, ...] = ()
    scales: tuple[Scales, ...] = ()  # of a map, one for each picture


@dataclass(frozen=True, slots=True)
class Request:
    """What the worker is asked for: a preview, an edit, or a map of edits."""

    kind: str
    source: Source
    settings: Settings
    scales: tuple[Scales, ...] = ()


class EditSession:
    """Everything an interactive editor does, callable from code and from any thread.

    Nothing is computed before the first request. Listeners are called from the worker's thread, or from
    the caller's where no network is needed; they must not block.
    """

    def __init__(self, editor: Backbone, preset: Preset, *, rest: float = 0.25) -> None:
        config = preset.edit
        self.editor, self.preset, self.rest = editor, preset, rest
        self.settings = Settings(
            "", config.guidance_scale, config.image_guidance_scale, config.num_inference_steps, config.sampler
        )
        self.source: Source | None = None
        self.history = History()
        self.last_error: Exception | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.RLock()
        self._worker = Worker(self._serve)
        self._finished: OrderedDict[tuple[str, Settings], Entry] = OrderedDict()
        self._memory = Memory()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def open(self, picture: Image.Image, *, scene: Scene | None = None, name: str = "picture") -> None:
        """Take another picture, of any size and mode; what is running for the old one stops.

        Raises:
            ValueError: the picture has no area, or its sides are too far apart.
        """
        self._take(Source(resized(picture, self.preset.edit), images.digest(picture), scene, name))

    def _take(self, source: Source) -> None:
        with self._lock:
            self._worker.cancel()
            self.source = source
        text = f"{source.name}, {source.picture.width} x {source.picture.height} pixels"
        self._tell(Event("source", text, pictures=(source.picture,)))

    def set(self, **changes: Any) -> Settings:
        """Change settings by name; computes nothing.

        Raises:
            ValueError: a value is not usable; the settings stay as they were.
            TypeError: there is no setting of that name.
        """
        with self._lock:
            changed = replace(self.settings, **changes)
            check_scales([changed.guidance_scale], [changed.image_guidance_scale])
            check_sampler(changed.sampler)
            most = len(self.editor.scheduler.alphas_cumprod)
            if not 1 <= changed.num_inference_steps <= most:
                raise ValueError(f"steps must lie in 1..{most}, got {changed.num_inference_steps}")
            if not 0 <= changed.seed <= MAX_SEED:
                raise ValueError(f"the seed must lie in 0..{MAX_SEED}, got {changed.seed}")
            if changed.instruction != self.settings.instruction:
                check_instruction(self.editor, changed.instruction)
            self.settings = changed
        return changed

    def reroll(self) -> int:
        """Take another seed, the next of a fixed sequence, so that a session can be repeated."""
        return self.set(seed=(self.settings.seed * 48_271 + 11) % MAX_SEED).seed

    def preview(self) -> Job:
        """Ask for a quick look, and for the full edit once nothing else was asked for `rest` seconds."""
        return self._ask("preview")

    def run(self, *, wait: bool = False, timeout: float | None = None) -> Entry | None:
        """Ask for the full edit; with `wait`, return it.

        Raises:
            ValueError: there is no picture or no instruction yet.
            TimeoutError: it took longer than `timeout` seconds.
            RuntimeError: with `wait`, a stop or a later request came first.
        """
        job = self._ask("edit")
        return self.result(job, timeout=timeout) if wait else None

    @staticmethod
    def result(job: Job, *, timeout: float | None = None) -> Any:
        """Wait for what was asked for.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            RuntimeError: a stop or a later request came first.
        """
        if not job.done.wait(timeout):
            raise TimeoutError(f"the edit must end within {timeout:g} seconds; ask for fewer steps")
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise RuntimeError("the edit was stopped, or a later request took its place")
        return job.result

    def guidance_map(self, text_scales: Sequence[float], image_scales: Sequence[float]) -> Job:
        """Ask for the edit at every pair of scales, all in one batch; its event has the pictures row by row.

        Raises:
            ValueError: a scale is not usable, or there is no picture or instruction yet.
        """
        check_scales(text_scales, image_scales)
        return self._ask("map", tuple((t, i) for i in image_scales for t in text_scales))

    def stop(self) -> None:
        """Give up what is running, within one step, and what is waiting."""
        if self._worker.cancel():
            self._tell(Event("stopped", "stopped"))

    def undo(self) -> None:
        """Show the edit before, or its picture if there is none; settings follow.

        Raises:
            ValueError: nothing is left to undo.
        """
        with self._lock:
            left = self.history.undo()
        self._show(self.history.current or left, is_edited=self.history.current is not None)

    def redo(self) -> None:
        """Show again what was undone.

        Raises:
            ValueError: nothing was undone.
        """
        with self._lock:
            entry = self.history.redo()
        self._show(entry, is_edited=True)

    def _show(self, entry: Entry, *, is_edited: bool) -> None:
        self.settings = entry.settings
        self._take(entry.source)
        if is_edited:
            self._tell(
                Event("edit", f"shown again: {entry.settings.instruction}", pictures=(entry.result.picture,))
            )

    def keep(self) -> None:
        """Go on from the edit on show: it becomes the picture, and the world's answer goes along.

        Raises:
            ValueError: no edit is on show.
        """
        entry = self.history.current
        if entry is None:
            raise ValueError("there is no edit to go on from; run one first")
        scene, picture = entry.source.scene, entry.result.picture
        asked = read_instruction(entry.settings.instruction, scene) if scene else None
        name = f"{entry.source.name}, {entry.settings.instruction}"
        self._take(Source(picture, images.digest(picture), asked.after if asked else None, name, True))

    def close(self) -> None:
        """Stop and end the worker's thread."""
        self._worker.close()

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _ask(self, kind: str, scales: tuple[Scales, ...] = ()) -> Job:
        with self._lock:
            if self.source is None:
                raise ValueError("choose or upload a picture first")
            check_instruction(self.editor, self.settings.instruction)
            return self._worker.ask(Request(kind, self.source, self.settings, scales))

    def _serve(self, job: Job) -> Entry | Event | None:
        self.last_error = None
        try:
            if job.request.kind == "map":
                return self._serve_map(job)
            if job.request.kind == "preview" and not self._serve_preview(job):
                return None
            return self._serve_edit(job)
        except Exception as error:
            self.last_error = error
            self._tell(Event("error", str(error)))
            raise

    def _serve_preview(self, job: Job) -> bool:
        """A quick look; whether the full edit shall follow."""
        settings = job.request.settings
        steps = min(PREVIEW_STEPS, settings.num_inference_steps)
        if (job.request.source.digest, settings) in self._finished or steps == settings.num_inference_steps:
            return True
        pictures = self._sample(job, [replace(settings, num_inference_steps=steps)])
        if pictures is None:
            return False
        self._tell(Event("preview", f"preview with {steps} steps", pictures=pictures))
        return self._worker.rests(job, self.rest)

    def _serve_edit(self, job: Job) -> Entry | None:
        source, settings = job.request.source, job.request.settings
        entry = self._finished.get((source.digest, settings))
        if entry is None:
            pictures = self._sample(job, [settings])
            if pictures is None:
                return None
            entry = Entry(source, settings, EditResult(pictures[0], self._recipe(source, settings)))
            self._finished[source.digest, settings] = entry
            _forget(self._finished)
        with self._lock:
            if not self._worker.is_latest(job):
                return None
            self.history.add(entry)
        self._tell(Event("edit", f"done: {settings.instruction}", pictures=(entry.result.picture,)))
        return entry

    def _serve_map(self, job: Job) -> Event | None:
        settings, scales = job.request.settings, job.request.scales
        rows = [replace(settings, guidance_scale=t, image_guidance_scale=i) for t, i in scales]
        pictures = self._sample(job, rows)
        if pictures is None:
            return None
        event = Event("map", f"map of {len(scales)} pairs of scales", pictures=pictures, scales=scales)
        self._tell(event)
        return event

    def _sample(self, job: Job, rows: Sequence[Settings]) -> tuple[Image.Image, ...] | None:
        """Edits of the job's picture, one for each row of settings; None once it is no longer wanted."""
        first, source = rows[0], job.request.source
        pictures, recipes = [source.picture] * len(rows), [self._recipe(source, r) for r in rows]
        last: Step | None = None
        for last in self._steps(pictures, recipes):
            if not self._worker.is_latest(job):
                return None
            text = f"step {last.index + 1} of {first.num_inference_steps}"
            self._tell(Event("progress", text, last.index + 1, first.num_inference_steps))
        return tuple(shown(self.editor, last.latents, pictures, recipes, self._memory)) if last else None

    def _steps(self, pictures: Sequence[Image.Image], recipes: Sequence[Recipe]) -> Iterator[Step]:
        return sampled(self.editor, pictures, recipes, False, self._memory)

    def _recipe(self, source: Source, settings: Settings) -> Recipe:
        return recipe_of(self.editor, source.digest, config=self.preset.edit, **asdict(settings))


def _forget(memory: OrderedDict[Any, Any]) -> None:
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
