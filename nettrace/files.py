"""Where the program's own data files are: in the package if it was installed, else beside it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent

TREE = _DATA / "tracer.yaml"
RULES = _DATA / "rules"
BPF = _DATA / "bpf"
SCHEMA = _DATA / "nettrace.schema.json"
PAGE = _DATA / "report.html"
