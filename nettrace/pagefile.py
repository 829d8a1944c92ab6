"""The file of a page: report.html with its data, which nothing in it takes for markup or for a script."""

import base64
import hashlib
import html
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from . import files
from .diagnosis import INFO
from .errors import StreamError
from .kept import created
from .printable import all_printable


@contextmanager
def file_for(path: str) -> Iterator[TextIO]:
    """What is written goes to a new file, all at once in the end; there is none if nothing was written."""
    text = io.StringIO()
    with created(path, "--report") as file:
        try:
            yield text
        finally:
            data = text.getvalue().encode()
            if not data:
                os.unlink(path)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError as error:
                os.unlink(path)
                raise StreamError(f"--report: {path} cannot be written: {os.strerror(error.errno or 0)}") from error


def filled(data: dict[str, Any]) -> str:
    """The page with its data."""
    data = all_printable(data)
    template = files.PAGE.read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"))  # in ASCII, and so without any other end of a line
    parts = {
        "POLICY": f"default-src 'none'; script-src {_hash(template, 'script')}; style-src {_hash(template, 'style')}; "
                  "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(data["run"]["name"]),
        "FACTS": html.escape(_facts(data)),
        "DATA": text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    }  # fmt: skip
    return re.sub(r"@(POLICY|TITLE|FACTS|DATA)@", lambda match: parts[match[1]], template)


def _hash(template: str, tag: str) -> str:
    """What the browser knows the page's own script or style by, which is the only one it may use."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _facts(data: dict[str, Any]) -> str:
    """What matters most, for a browser that runs no scripts."""
    run, summary = data["run"], data["summary"]
    lines = [f"{run['command']}", f"Linux {run['kernel']}, {run['began']} to {run['ended']} {run['zone']}"]
    lines.append("what was lost is not known" if summary is None else summary["text"])
    for kind in data["findings"]:
        if kind["level"] != INFO:
            lines.append(f"{kind['level']}: {kind['message']} ({kind['name']}): {kind['packets']} {run['unit']}")
    lines += [f"dropped: {count} {reason or ''} at {where}" for reason, where, count, _ in data["drops"]["rows"]]
    return "\n".join(lines)
