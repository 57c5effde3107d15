"""The table of results, as text and in docs/benchmarks.md."""

import dataclasses
import datetime
import os
import pathlib
import platform
import re

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs/benchmarks.md"
BEGIN, END = "<!-- table: written by make bench -->", "<!-- end of table -->"


@dataclasses.dataclass
class Row:
    """One comparison. `most` is the largest ratio invar : peer that meets the target."""

    what: str
    invar: float
    peer: str
    other: float
    most: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        return self.invar / self.other

    @property
    def met(self) -> bool:
        return self.most is None or self.ratio <= self.most


def quantity(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:.2f} MB"
    if unit == "%":
        return f"{value * 100:.2f} %"
    if value < 1e-3:
        return f"{value * 1e6:.1f} µs"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def render(rows: list) -> str:
    lines = [
        f"{datetime.date.today()} · {os.cpu_count()} CPUs · Linux {platform.release()} · {platform.machine()}",
        "",
        "| measure (medians) | invar | peer | | ratio | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row.most is None else f"≤ {row.most:.3g}"
        verdict = "" if row.most is None else ("met" if row.met else "**missed**")
        lines.append(f"| {row.what} | {quantity(row.invar, row.unit)} | {row.peer} | {quantity(row.other, row.unit)} "
                     f"| {row.ratio:.3g} | {target} | {verdict} |")
    return "\n".join(lines)


def write(text: str) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(f"{BEGIN}\n{text}\n{END}", document), encoding="utf-8")
