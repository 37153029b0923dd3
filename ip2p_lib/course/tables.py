"""Tables that notebooks show: plain HTML with scopes for screen readers, and plain text where there is none."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under heads; `caption` says in a sentence what the table shows.

    Raises:
        ValueError: a row has another length than the heads.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(
                    f"a row must have {len(self.heads)} cells, one for each head; got {len(row)}"
                )

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in self.heads)
        rows = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:left">{html.escape(_shown(c))}</td>' for c in row)
            + "</tr>"
            for row in self.rows
        )
        caption = html.escape(self.caption)
        return (
            f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def __repr__(self) -> str:
        lines = [" | ".join(map(_shown, row)) for row in (self.heads, *self.rows)]
        return "\n".join([self.caption, *lines])


def _shown(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
