"""The C in the style that .clang-format has: `python3 -m tests.c_style`, with clang-format on the path."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 120
TAB = 8


def _lines(text: str) -> list[str]:
    """The lines, with one space before what stands behind the code: a comment, or the backslash of a macro."""
    return [re.sub(r"\s*\\$", r" \\", re.sub(r"(?<=\S)\s+/\*", " /*", line)) for line in text.splitlines()]


def main() -> int:
    files = [*sorted((ROOT / "bpf").rglob("*.h")), *sorted((ROOT / "bench").glob("*.c"))]
    status = 0
    for file in files:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        wanted = subprocess.run(["clang-format", file], stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in difflib.unified_diff(_lines(text), _lines(wanted), name, "as it should be", n=1, lineterm=""):
            print(line)
            status = 1
        for number, line in enumerate(text.splitlines(), 1):
            if len(line.expandtabs(TAB)) > COLUMNS:
                print(f"{name}:{number}: longer than {COLUMNS} columns")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
