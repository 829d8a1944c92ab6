"""The defects of the older programs: for each there is a test that nettrace does not have it."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import ast
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def defects() -> dict[int, dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load((TESTS / "data" / "defects.yaml").read_text(encoding="utf-8")))


def test_every_test_named_there_exists(defects: dict[int, dict[str, Any]]) -> None:
    for number, defect in defects.items():
        assert defect["what"] and defect["tests"], number
        for name in defect["tests"]:
            file, _, function = name.partition("::")
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in names, f"defect {number}: there is no {name}"
