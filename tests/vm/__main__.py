"""Command line of the VM runner: build images, run a command or a shell, run the end-to-end tests."""

import argparse
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Optional

from . import boot, image
from .kernels import KERNELS, Kernel, find

TEST_TIMEOUT_S = 60 * 60
VMS_AT_ONCE = 2
BOOTS = 3

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
        results = pool.map(lambda kernel: _test(kernel, options.results, options.pytest), kernels)
        return max(results)


def _test(kernel: Kernel, results: Path, extra: str) -> int:
    """Runs tests/e2e in one kernel, prefixing each line with its version; returns pytest's exit status."""
    image.ensure(kernel)
    started = time.monotonic()
    keep_in = results / kernel.version
    arguments = " ".join(shlex.quote(word) for word in shlex.split(extra))
    command = (
        "python3 -m pytest -p no:cacheprovider --junitxml=/mnt/out/junit.xml -o junit_family=xunit2 "
        f"-v --tb=short tests/e2e {arguments}"
    )
    runner = [sys.executable, "-m", "tests.vm", "run", kernel.version, command]
    runner += ["--timeout", str(TEST_TIMEOUT_S), "--out", str(keep_in)]
    for attempt in range(1, BOOTS + 1):
        began = False
        with subprocess.Popen(
            runner, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as vm:
            assert vm.stdout is not None
            for line in vm.stdout:
                began = began or "test session starts" in line
                _say(kernel, line.rstrip())
        # Code that a booting kernel changes under its own feet is now and then too much for an emulated CPU.
        if began or vm.returncode != boot.STOPPED_BY_ITSELF or attempt == BOOTS:
            break
        _say(kernel, "the kernel did not come up: booting it again")
    _say(kernel, f"exit status {vm.returncode} after {time.monotonic() - started:.0f} s, results in {keep_in}")
    return _status(vm.returncode)


def _status(returncode: Optional[int]) -> int:
    return 1 if returncode is None else abs(returncode)


def _say(kernel: Kernel, line: str) -> None:
    with _print_lock:
        print(f"[{kernel.version}] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
