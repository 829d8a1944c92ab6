"""The recorded kernels, unpacked once for all unit tests."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from nettrace import files, rules, tree
from nettrace.kernel import Kernel
from nettrace.rules import Rules
from nettrace.tree import Tree
from tests.record_kernel import VERSIONS, unpack


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What nettrace keeps for its next start is kept for these tests alone; inside a VM, for all."""
    if "NETTRACE_TEST_KERNEL" in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETTRACE_PROGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a kernel's files are; a test that changes them makes its own copy."""
    root = tmp_path_factory.mktemp("kernels")
    for version in VERSIONS:
        unpack(version, root / version)
    return lambda version: root / version


@pytest.fixture(scope="session")
def kernels(recorded: Callable[[str], Path]) -> dict[str, Kernel]:
    return {version: Kernel(recorded(version)) for version in VERSIONS}


@pytest.fixture(scope="session")
def leaves() -> Tree:
    """The tree that is shipped."""
    return tree.load(files.TREE)


@pytest.fixture(scope="session")
def shipped(leaves: Tree) -> Rules:
    """The rules that are shipped."""
    return rules.load(files.RULES, leaves)
