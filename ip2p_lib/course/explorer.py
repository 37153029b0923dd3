"""Controls that choose what is shown, at once. Where no kernel runs a still picture stays in their place."""

import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from PIL import Image

from ip2p_lib.course.figures import PAPER, Shown

FOLD = "<details><summary>As a still picture</summary>"


@dataclass(frozen=True, slots=True)
class Choice:
    """What one control can be set to.

    Args:
        label: what stands beside the control.
        options: values by the words that the reader sees, in the control's order.
        start: the words that it begins with; the first if empty.
        is_slider: a slider for what has an order, else a list to pick from.

    Raises:
        ValueError: there is nothing to choose, or `start` is none of the options.
    """

    label: str
    options: Mapping[str, Any]
    start: str = ""
    is_slider: bool = True

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError(f"a slider over {self.label} needs at least one picture, got none")
        if self.start and self.start not in self.options:
            raise ValueError(
                f"{self.label} must start at one of {', '.join(self.options)}; got {self.start!r}"
            )


class Still:
    """A picture folded away below a widget: it is there when the widget is not, on a page or without a kernel."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown

    def _repr_html_(self) -> str:
        return f"{FOLD}{self.shown._repr_html_()}</details>"

    def __repr__(self) -> str:
        return repr(self.shown)


class Explorer:
    """Labelled controls, the picture that belongs to them, and its words, which screen readers announce.

    Args:
        show: called with the value of each control by name. It answers at once, so what takes time is made beforehand.
        choices: the controls by the names of `show`'s arguments.
        still: what stands where no kernel runs; what is shown first if None.

    Raises:
        ValueError: there is no control.
    """

    def __init__(
        self, show: Callable[..., Shown], choices: Mapping[str, Choice], still: Shown | None = None
    ) -> None:
        import ipywidgets

        if not choices:
            raise ValueError("an explorer needs at least one control, got none")
        self._show, self._choices, self._lock = show, dict(choices), Lock()
        self.controls = {name: _control(choice) for name, choice in self._choices.items()}
        self.view, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.shown = self._follow()
        self.still = still or self.shown
        for control in self.controls.values():
            control.observe(self._on_move, names="value")
        self.box = ipywidgets.VBox([*self.controls.values(), self.view, self.status])

    def set(self, **words: str) -> Shown:
        """Move controls by name, as a hand would, and return what is shown then.

        Raises:
            ValueError: a control has no such option.
        """
        for name, chosen in words.items():
            if chosen not in self._choices[name].options:
                offered = ", ".join(self._choices[name].options)
                raise ValueError(f"{self._choices[name].label} must be one of {offered}; got {chosen!r}")
            self.controls[name].value = chosen
        return self.shown

    def _follow(self) -> Shown:
        with self._lock:  # moves may arrive on another thread
            chosen = {n: self._choices[n].options[c.value] for n, c in self.controls.items()}
            self.shown = self._show(**chosen)
            self.view.value = self.shown._repr_html_()
            self._say(self.shown.alt)
            return self.shown

    def _on_move(self, change: Mapping[str, Any]) -> None:
        try:
            self._follow()
        except Exception as error:
            self._say(f"Please note: {error}")  # JupyterLab would hide it
            if os.environ.get("IP2P_TESTING"):
                raise

    def _say(self, text: str) -> None:
        self.status.value = f'<span role="status" aria-live="polite">{html.escape(text)}</span>'

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box, Still(self.still))


def _control(choice: Choice) -> Any:
    import ipywidgets

    kind = ipywidgets.SelectionSlider if choice.is_slider else ipywidgets.Dropdown
    return kind(
        options=list(choice.options),
        value=choice.start or next(iter(choice.options)),
        description=choice.label,
        tooltip=f"{choice.label}: arrow keys choose",
        layout={"width": "95%"},
        style={"description_width": "initial"},
    )


def browse(shown: Mapping[str, Shown], name: str, still: Shown | None = None) -> Explorer:
    """A slider over pictures made beforehand. Where no kernel runs stands `still`, or the first above the last.

    Raises:
        ValueError: there is nothing to show.
    """
    pages = list(shown.items())
    if still is None and pages:
        still = stacked({f"{name} {words}": page for words, page in (pages[0], *pages[1:][-1:])})
    return Explorer(lambda page: page, {"page": Choice(name, dict(pages))}, still)


def stacked(shown: Mapping[str, Shown]) -> Shown:
    """Pictures below each other as one; its words are theirs, each behind its name.

    Raises:
        ValueError: there is no picture.
    """
    if not shown:
        raise ValueError("a stack needs at least one picture, got none")
    pictures, gap = [s.image for s in shown.values()], 8
    height = sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    sheet, top = Image.new("RGB", (max(p.width for p in pictures), height), PAPER), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    return Shown(sheet, ". ".join(f"{name}: {s.alt}" for name, s in shown.items()))
