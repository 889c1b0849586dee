"""Rows of text as a table, in plain letters or in HTML."""

from collections.abc import Sequence
from html import escape


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    r"""One line a row, text to the left, numbers to the right.

    Args:
        rows: the cells; the first row is the heads.
        left: columns that hold text; negative ones count from the end.

    Example:
        >>> print("\n".join(aligned([["site", "variance"], ["z", "0.25"]])))
        site  variance
        z         0.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = {i % len(widths) for i in left}
    return [
        "  ".join(
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_html(rows: Sequence[Sequence[str]]) -> str:
    """The same as an HTML table.

    Args:
        rows: the cells; the first row is the heads.
    """
    names, *rest = rows
    columns = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rest
    )
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def size_in_words(size: float) -> str:
    """A number of bytes for people.

    Example:
        >>> size_in_words(1536)
        '1.5 kB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
