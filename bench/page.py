"""docs/performance.md and its plots, made of the figures that were kept."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from . import results
from .results import Results

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIGURES = DOCS / "performance.json"
PAGE = DOCS / "performance.md"
TEXT = Path(__file__).with_name("performance.in.md")


def dated(made: Sequence[Results], commit: str, day: date) -> dict[str, Any]:
    """Figures with when and of what they are: by kernel, then by part."""
    kernels: dict[str, Any] = {}
    for one in made:
        for part in one.parts():
            rows = [[*key[1:], *figure] for key, figure in one.figures.items() if key[0] == part]
            kernels.setdefault(one.kernel, {})[part] = {"date": str(day), "commit": commit, "figures": rows}
    return kernels


def keep(made: Sequence[Results], commit: str, day: date) -> None:
    """What was measured now takes the place of the older figures of the same parts; then makes the page anew."""
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for kernel, parts in dated(made, commit, day).items():
        kept.setdefault(kernel, {}).update(parts)
    FIGURES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    write(kept)


def write(kept: Mapping[str, Any]) -> None:
    """The page and its plots."""
    made = [
        Results(
            kernel,
            {
                (part, row[0], row[1]): results.Figure(*row[2:])
                for part, told in parts.items()
                for row in told["figures"]
            },
        )
        for kernel, parts in sorted(kept.items(), key=lambda item: [-int(word) for word in item[0].split(".")])
    ]
    blocks = []
    for one in made:
        for part in one.parts():
            told = kept[one.kernel][part]
            heading = f"### {part}, Linux {one.kernel} ({told['date']}, commit {told['commit']})"
            blocks.append(f"{heading}\n\n{results.part_table(one, part, 'github')}")
    plots = _plots(made)
    if plots:
        blocks.append("### How cost grows\n\n" + "\n".join(f"![{title}]({name})" for name, title in plots))
    text = TEXT.read_text()
    text = text.replace("@TARGETS@", results.targets_table(made, "github")).replace("@TABLES@", "\n\n".join(blocks))
    PAGE.write_text(text)


def _plots(made: Sequence[Results]) -> list[tuple[str, str]]:
    """Draws what grows; the files' names and titles."""
    if not any(part.startswith("growth") for one in made for part in one.parts()):
        return []
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nettrace"
    from matplotlib import pyplot

    drawn = []
    for part, measure, along, title, logarithmic in (
        ("growth with traces", "udp_packets_per_s", "traces attached", "UDP flood that does not match", False),
        ("growth with open packets", "cpu_us_per_packet", "packets on their way", "reader's CPU a packet, us", True),
    ):
        for one in made:
            points = sorted(
                (0 if tool == results.BASE else int(tool), figure)
                for (other, tool, name), figure in one.figures.items()
                if (other, name) == (part, measure)
            )
            if not points:
                continue
            figure, axes = pyplot.subplots(figsize=(6, 3.5))
            places = [place for place, _ in points]
            axes.plot(places, [value.median for _, value in points], marker="o")
            axes.fill_between(places, [v.least for _, v in points], [v.most for _, v in points], alpha=0.2)
            axes.set_xlabel(along)
            axes.set_ylabel("packets/s" if measure.endswith("_per_s") else "us")
            axes.set_ylim(bottom=0)
            axes.set_title(f"{title} (Linux {one.kernel})")
            if logarithmic:
                axes.set_xscale("log")
            name = f"performance-{part.replace(' ', '-')}-{one.kernel}.svg"
            figure.savefig(DOCS / name, metadata={"Date": None}, bbox_inches="tight")
            pyplot.close(figure)
            drawn.append((name, f"{title} by {along}"))
    return drawn
