"""Command line of the VM runner: build images, run a command or a shell, run the end-to-end tests."""

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from . import boot, image
from .kernels import KERNELS, Kernel, find

TEST_TIMEOUT_S = 60 * 60
VMS_AT_ONCE = 2
BOOTS = 3

# What of a guest's output is repeated at the end when its tests failed.
TEST_LINE = re.compile(r"(?P<name>(?P<file>tests/e2e/\S+?)::[^ ]+)(?: (?P<outcome>[A-Z]+))?")
TROUBLE = re.compile(r"^(FAILED|ERROR) |Kernel panic|BUG: |Oops: |RIP: [\d:]+\w|Unable to handle|no end within")
TROUBLES_SHOWN = 12

_print_lock = Lock()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build the images that the cache lacks")
    test = verbs.add_parser("test", help="run tests/e2e inside the kernels, two at a time")
    for verb in (build, test):
        verb.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all")
    test.add_argument("--results", type=Path, default=Path("build/test-results"), help="where JUnit XML is put")
    test.add_argument("--pytest", default="", help="more arguments for pytest")
    run = verbs.add_parser("run", help="run a bash command in a kernel, or a shell")
    run.add_argument("kernel")
    run.add_argument("command", nargs="?")
    run.add_argument("--timeout", type=float, default=600, help="seconds (no limit for a shell)")
    run.add_argument("--out", type=Path, help="folder for what the command leaves in /mnt/out")
    options = parser.parse_args()

    if options.verb == "run":
        timeout_s = options.timeout if options.command else 7 * 24 * 3600
        return boot.run(find(options.kernel), options.command, timeout_s=timeout_s, keep_in=options.out)
    kernels = [find(version) for version in options.kernels] or list(KERNELS)
    with ThreadPoolExecutor(VMS_AT_ONCE) as pool:
        if options.verb == "build":
            list(pool.map(image.ensure, kernels))
            return 0
        results = list(pool.map(lambda kernel: _test(kernel, options.results, options.pytest), kernels))
    print("", *(line for result in results for line in result.lines()), sep="\n", flush=True)
    return max(result.status for result in results)


@dataclass
class Result:
    """What became of the tests in one kernel: pytest's exit status or the guest's, and what the output said of it."""

    kernel: Kernel
    status: int = 0
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)  # in the order in which their tests were run
    failed: bool = False  # a test, maybe of a guest that died later
    last_test: str = ""
    died_at: list[str] = field(default_factory=list)  # tests, or nothing where the kernel did not come up
    troubles: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Keeps what is worth repeating at the end: failed tests, and the first words of a kernel that dies."""
        test = TEST_LINE.match(line)
        if test:
            self.last_test = test["name"]
            if test["file"] not in self.files:
                self.files.append(test["file"])
            self.failed = self.failed or test["outcome"] in ("FAILED", "ERROR")
        if TROUBLE.search(line) and len(self.troubles) < TROUBLES_SHOWN:
            self.troubles.append(line)

    def lines(self) -> Iterator[str]:
        """The end of the report on this kernel: one line if all is well."""
        ended = "passed" if self.status == 0 else f"failed with status {self.status}"
        yield f"[{self.kernel.version}] {ended} after {self.seconds:.0f} s"
        yield from (f"    the guest died at {test or 'its boot'}" for test in self.died_at)
        if self.status != 0 or self.died_at:
            yield from (f"    {line}" for line in self.troubles)


def _test(kernel: Kernel, results: Path, extra: str) -> Result:
    """Runs tests/e2e in one kernel, prefixing each line with its version.

    Code that a kernel changes under its own feet, at its boot and for each probe, is now and then too much for an
    emulated CPU: a guest that dies is booted again and goes on with the file that it was at, unless it dies there
    again.
    """
    image.ensure(kernel)
    started = time.monotonic()
    keep_in = results / kernel.version
    result = Result(kernel)
    while True:
        result.last_test = ""
        done = [f"--ignore={file}" for file in result.files[:-1]]
        result.status = _run(kernel, keep_in, [*shlex.split(extra), *done], result)
        if result.status != boot.STOPPED_BY_ITSELF:
            break
        again = bool(result.last_test) and result.last_test in result.died_at
        result.died_at.append(result.last_test)
        if again or len(result.died_at) == BOOTS:
            break
        _say(kernel, "the guest died: booting it again")
    result.status = result.status or int(result.failed)
    result.seconds = time.monotonic() - started
    _say(kernel, f"exit status {result.status} after {result.seconds:.0f} s, results in {keep_in}")
    return result


def _run(kernel: Kernel, keep_in: Path, arguments: list[str], result: Result) -> int:
    words = " ".join(map(shlex.quote, arguments))
    command = (
        "python3 -m pytest -p no:cacheprovider --junitxml=/mnt/out/junit.xml -o junit_family=xunit2 "
        f"-v --tb=short tests/e2e {words}"
    )
    runner = [sys.executable, "-m", "tests.vm", "run", kernel.version, command]
    runner += ["--timeout", str(TEST_TIMEOUT_S), "--out", str(keep_in / str(len(result.died_at) or ""))]
    with subprocess.Popen(runner, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as vm:
        assert vm.stdout is not None
        for line in vm.stdout:
            result.note(line.rstrip())
            _say(kernel, line.rstrip())
    return abs(int(vm.returncode))


def _say(kernel: Kernel, line: str) -> None:
    with _print_lock:
        print(f"[{kernel.version}] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
