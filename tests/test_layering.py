"""Who may import, read and print what: read from the source, and tried with modules taken away."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "nettrace"
SOURCES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.glob("*.py"))}
MODULES = sorted(SOURCES)

# Not of Python's own library, and slow to import or not there.
FOREIGN = ("bcc", "pyroute2", "tabulate", "yaml")

# Who reads /proc and /sys.
READERS = ("evidence", "kernel", "netns", "owners", "ruleset")
# Who else may speak of these paths, and why.
ALLOWED_PATHS = {
    ("btf", "/sys/kernel/btf/vmlinux"),  # the default of a path that kernel gives
    ("syscalls", "/sys/bus/event_source/devices/kprobe"),  # numbers that perf_event_open(2) takes
}


def test_the_package_is_flat_and_was_found() -> None:
    assert {"bpf", "cli", "kernel", "sinks", "__init__", "__main__"} <= set(MODULES)
    assert list(PACKAGE.glob("*/*.py")) == []


def imports(node: ast.AST) -> set[str]:
    """The modules that an import statement names: "yaml", or ".btf" for one of ours."""
    if isinstance(node, ast.Import):
        return {_own(alias.name) for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    module = "." * node.level + (node.module or "")
    if module in (".", "nettrace"):
        names = {alias.name for alias in node.names}
        return {f".{name}" if name in SOURCES else ".__init__" for name in names}
    return {_own(module)}


def _own(module: str) -> str:
    """`nettrace.btf` and `.btf` are the same."""
    first, _, rest = module.partition(".")
    return f".{rest}" if first == "nettrace" and rest else module


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not what functions hold, nor what only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from at_import(child)


def imported(module: str, *, only_at_import: bool = False) -> set[str]:
    nodes = at_import(SOURCES[module]) if only_at_import else ast.walk(SOURCES[module])
    return {name for node in nodes for name in imports(node)}


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def importers(name: str) -> set[str]:
    return {module for module in MODULES if name in imported(module) | roots(imported(module))}


def test_only_compiler_knows_bcc() -> None:
    assert importers("bcc") == {"compiler"}


def test_only_yamlfile_knows_yaml() -> None:
    assert importers("yaml") == {"yamlfile"}


def test_only_netlink_knows_pyroute2() -> None:
    # It is imported by name, when it is needed.
    assert importers("pyroute2") == set()
    assert {module for module in MODULES if any("pyroute2.netlink" in text for text in strings(SOURCES[module]))} == {
        "netlink"
    }


def test_only_the_command_line_knows_argparse() -> None:
    # What wires the options to the rest is told them as they were parsed.
    assert importers("argparse") == {"commands", "modes", "options", "reading", "starts", "view"}


def test_only_these_call_libraries_in_c() -> None:
    assert importers("ctypes") == {"btf", "buffers", "compiler", "evidence_devices", "inside", "pcap", "syscalls"}


def test_stages_know_none_of_those_after_them() -> None:
    # From the tree to the programs, and from their messages to the text.
    for stages in (
        ("tree", "plan", "source", "compiler", "bpf", "run"),
        ("event", "decode", "lifecycle", "sinks", "run", "commands", "cli"),
    ):
        for at, stage in enumerate(stages):
            assert not {f".{later}" for later in stages[at + 1 :]} & imported(stage), stage


def test_nobody_imports_cli_but_the_entry_point() -> None:
    assert importers(".cli") == {"__main__"}
    assert importers(".__main__") == set()


@pytest.mark.parametrize("module", MODULES)
def test_foreign_modules_are_imported_where_they_are_used(module: str) -> None:
    assert not roots(imported(module, only_at_import=True)) & set(FOREIGN)


@pytest.mark.parametrize("module", MODULES)
def test_all_else_is_pythons_own(module: str) -> None:
    ours = {name for name in imported(module) if name.startswith(".")}
    assert {name[1:] for name in ours} <= set(MODULES)
    others = roots(imported(module) - ours) - set(FOREIGN) - {"nettrace"}
    if sys.version_info >= (3, 10):
        assert others <= sys.stdlib_module_names


def test_imports_have_no_cycle() -> None:
    needs = {module: {name[1:] for name in imported(module) if name.startswith(".")} for module in MODULES}
    assert {"event", "errors"} <= needs["decode"]  # the graph is not empty
    while needs:
        free = {module for module in needs if not needs[module] & needs.keys()}
        assert free, f"each of {sorted(needs)} needs another of them"
        needs = {module: needed for module, needed in needs.items() if module not in free}


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


@pytest.mark.parametrize("module", [module for module in MODULES if module not in READERS])
def test_only_these_read_proc_and_sys(module: str) -> None:
    # Their own paths are relative to a root.
    found = {text for text in strings(SOURCES[module]) if text.lstrip("/").startswith(("proc/", "sys/"))}
    assert {(module, text) for text in found} <= ALLOWED_PATHS


def test_they_do_read_them() -> None:
    assert {"proc/kallsyms", "sys/kernel/btf/vmlinux"} <= set(strings(SOURCES["kernel"]))
    assert "proc/self/ns/net" in set(strings(SOURCES["netns"]))
    assert "proc/" in set(strings(SOURCES["owners"]))


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def prints(module: str) -> set[str]:
    """The calls of print() and the uses of the standard streams."""
    tree = SOURCES[module]
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    found = {dotted(node) for node in attributes if id(node) not in inner}
    streams = tuple(f"sys.{stream}" for stream in ("stdout", "stderr", "__stdout__", "__stderr__"))
    used = {name for name in found if name.startswith(streams)}
    calls = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "sys"
        for alias in node.names
    }
    return used | (calls & {"print", "os.write"}) | (names & {"stdout", "stderr"})


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module not in ("cli", "commands", "reading", "sinks", "view")]
)
def test_only_what_wires_and_shows_prints(module: str) -> None:
    assert not prints(module)


def test_exceptions_are_still_needed() -> None:
    assert prints("commands") >= {"print", "sys.stdout.write"}
    for module, text in ALLOWED_PATHS:
        assert text in set(strings(SOURCES[module]))


def test_everything_is_imported_without_foreign_modules() -> None:
    names = [module for module in MODULES if module != "__main__"]
    program = (
        "import sys, importlib\n"
        f"for name in {FOREIGN!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module('nettrace' if name == '__init__' else 'nettrace.' + name)\n"
        "print(len([name for name in sys.modules if name.startswith('nettrace.')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.stderr.decode() == ""
    assert int(done.stdout) == len(names) - 1
