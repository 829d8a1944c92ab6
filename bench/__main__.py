"""Command line of the benchmarks: boots the VMs, has them measure, shows tables and keeps the figures."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from tests.vm import boot
from tests.vm.kernels import find

from . import page, results
from .results import Results

TIMEOUT_S = 60 * 60
# What the measuring needs in the VM beside nettrace's own tests.
PACKAGES = ("bpftrace", "iperf3", "libc6-dev", "tcc")
# On which kernels each part says something new.
PARTS = {
    "startup": ("6.12", "6.1"),
    "cost": ("6.12", "6.1"),
    "matching": ("6.12", "6.1", "5.10"),
    "modes": ("6.12",),
    "growth": ("6.12",),
}
CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"default: all of {', '.join(PARTS)}; or with commas")
    parser.add_argument("--kernels", default="", help="default: those that each part is made for")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tool", action="append", default=[], metavar="NAME=READY=COMMAND",
        help="another tool, measured beside the others; READY is in its output when it traces",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--keep", action="store_true", help="the figures also go to docs/performance.md")
    asked = parser.parse_args()
    parts = [part for word in asked.parts for part in word.replace(",", " ").split()] or list(PARTS)
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    wanted = asked.kernels.replace(",", " ").split()
    asked.out.mkdir(parents=True, exist_ok=True)
    made = []
    for version in dict.fromkeys(kernel for part in parts for kernel in PARTS[part]):
        here = [part for part in parts if version in PARTS[part]]
        if not wanted or version in wanted:
            made.append(_measured(version, here, asked))
    (asked.out / "results.json").write_text(json.dumps(page.dated(made, _commit(), date.today()), indent=1) + "\n")
    print(text(made))
    if asked.keep:
        page.keep(made, _commit(), date.today())
    return 0


def _measured(version: str, parts: list[str], asked: argparse.Namespace) -> Results:
    kernel = find(version)
    kernel = replace(kernel, packages=(*kernel.packages, *PACKAGES))
    out = asked.out / version
    samples = out / "samples.jsonl"
    samples.unlink(missing_ok=True)
    words = ["python3", "-m", "bench.guest", *parts, "--rounds", str(asked.rounds)]
    for tool in asked.tool:
        words += ["--tool", tool]
    command = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    if boot.run(kernel, command, timeout_s=TIMEOUT_S, keep_in=out) != 0:
        raise SystemExit(f"bench: the measuring on {version} failed; what it had measured is in {samples}")
    return Results.of(version, samples.read_text().splitlines())


def text(made: list[Results]) -> str:
    """All tables, for a terminal."""
    blocks = []
    for one in made:
        for part in one.parts():
            blocks.append(f"{one.kernel}, {part}:\n{results.part_table(one, part, 'simple')}")
    if results.judged(made):
        blocks.append(f"targets:\n{results.targets_table(made, 'simple')}")
    return "\n\n".join(blocks)


def _commit() -> str:
    words = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
