"""Contact sheets and one HTML page, readable by people and by screen readers."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ip2p_lib import images, storage

INK, PAPER, BLUE, ORANGE = (
    (40, 40, 48),
    (255, 255, 255),
    (0, 114, 178),
    (213, 94, 0),
)  # safe for colour-blind eyes


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a sheet with a caption under it."""

    picture: Image.Image
    text: str = ""
    frame: tuple[int, int, int] | None = None


def contact_sheet(
    rows: Sequence[Sequence[Cell]], *, heads: Sequence[str] = (), side: int = 112, lines: int = 3
) -> Image.Image:
    """Rows of captioned pictures, each enlarged without smoothing so that pixels stay honest.

    Args:
        heads: titles over the columns.
        side: width of a picture on the sheet.
        lines: lines of text under a picture.

    Raises:
        ValueError: there is no picture to show.
    """
    if not rows or not rows[0]:
        raise ValueError("a contact sheet needs at least one picture, got none")
    font = ImageFont.load_default(size=11)
    pad, line = 8, 13
    height, top = side + lines * line + pad, (20 if heads else 0)
    columns = max(len(r) for r in rows)
    sheet = Image.new("RGB", (columns * (side + pad) + pad, len(rows) * height + pad + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((pad + column * (side + pad), 5), head, INK, ImageFont.load_default(size=12))
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            left, upper = pad + x * (side + pad), top + pad + y * height
            shown = _within(cell.picture, side)
            sheet.paste(shown, (left + (side - shown.width) // 2, upper + (side - shown.height) // 2))
            if cell.frame is not None:
                draw.rectangle(
                    (left - 2, upper - 2, left + side + 1, upper + side + 1), outline=cell.frame, width=2
                )
            text = wrap(cell.text, max(10, side // 6))[:lines]
            draw.multiline_text((left, upper + side + 2), "\n".join(text), INK, font, spacing=1)
    return sheet


def _within(picture: Image.Image, side: int) -> Image.Image:
    """A picture as large as a square allows, enlarged without smoothing."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


class Shown:
    """A picture that notebooks display with its alt text."""

    def __init__(self, image: Image.Image, alt: str) -> None:
        if not alt.strip():
            raise ValueError("a shown picture must have alt text")
        self.image, self.alt = image, alt

    def _repr_html_(self) -> str:
        data = base64.b64encode(images.png_bytes(self.image)).decode()
        return f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}">'

    def __repr__(self) -> str:
        return f"picture: {self.alt}"


def drawn(figure: Any, alt: str) -> Shown:
    """A matplotlib figure as a shown picture; the figure is closed."""
    from io import BytesIO

    from matplotlib import pyplot

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    pyplot.close(figure)
    return Shown(Image.open(buffer).convert("RGB"), alt)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with storage.atomic_file(path) as partial:
        image.save(partial, "PNG")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: a heading, a paragraph, and a picture or a table."""

    title: str
    text: str
    picture: str = ""  # file name beside the page
    alt: str = ""
    table: Mapping[str, str] | None = None


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%;image-rendering:pixelated;border:1px solid #ddd}"
    "table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
)


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write one HTML page that needs nothing but the pictures beside it.

    Raises:
        ValueError: a picture has no alt text.
    """
    parts = []
    for section in sections:
        if section.picture and not section.alt:
            raise ValueError(f"picture {section.picture} must have alt text")
        body = f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>\n"
        if section.picture:
            body += f'<img src="{html.escape(section.picture)}" alt="{html.escape(section.alt)}">\n'
        if section.table:
            cells = "".join(
                f"<tr><th scope=row>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>"
                for k, v in section.table.items()
            )
            body += f"<table>{cells}</table>\n"
        parts.append(body)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{''.join(parts)}</body></html>\n"
    )
    with storage.atomic_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
