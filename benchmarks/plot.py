"""One picture of what was measured, as SVG.

Nouns: *bars* (several figures of the same contestants, side by side).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bars:
    """The same contestants in each of several charts; the first one is ours."""

    title: str
    names: Sequence[str]
    charts: Mapping[str, Sequence[float]]

    def save(self, path: Path) -> None:
        """Draw them into a file, the same bytes for the same figures."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context({"svg.hashsalt": "rstore", "svg.fonttype": "none", "font.size": 8}):
            figure = Figure(figsize=(9, 2.8), layout="constrained")
            figure.suptitle(self.title)
            axes = figure.subplots(1, len(self.charts), sharey=True)
            for axis, (what, values) in zip(axes, self.charts.items(), strict=True):
                ours = ["tab:blue" if name.startswith("rstore") else "0.7" for name in self.names]
                bars = axis.barh(range(len(self.names)), values, color=ours)
                axis.bar_label(bars, fmt="%.1f", padding=2)
                axis.set_xlabel(what)
                axis.set_yticks(range(len(self.names)), self.names)
                axis.margins(x=0.2)
                axis.spines[["top", "right"]].set_visible(False)
            axes[0].invert_yaxis()
            figure.savefig(path, format="svg", metadata={"Date": None})
