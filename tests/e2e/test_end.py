"""How a run ends, and that nothing stays behind."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import attached
from .net import Host, sh
from .tool import CHECKOUT, Nettrace, run
from .traffic import Peer, send_udp

PORT = 6030


@pytest.fixture(scope="module")
def ended(pair: tuple[Host, Host]) -> Nettrace:
    """A run without clones, ended by SIGTERM while a datagram lies where no program reads it."""
    left, right = pair
    with Nettrace("-p", "udp", "-D", str(PORT), "--trace-noclone") as trace:
        holder = Peer(right, "udp-hold", right.ip, str(PORT))
        monitor = Peer(right, "sniff", "r0", "1")
        send_udp(left, right.ip, PORT)
        assert monitor.result() == {"packets": 1}
        assert trace.stop(signal.SIGTERM) == 0
        holder.kill()
    return trace


def test_sigterm_ends_it_with_the_summary(ended: Nettrace) -> None:
    assert ended.output[-1] == "end trace..."
    assert ended.summary("packets") == 1
    assert ended.stderr.count("\n") == 1


def test_a_packet_still_on_its_way_is_printed_at_the_end(ended: Nettrace) -> None:
    (block,) = ended.blocks
    assert block.marks == ["unfinished"]
    assert block.traces[-1] == "__udp_enqueue_schedule_skb"
    assert ended.summary("unfinished") == 1


def test_without_clones_each_skb_is_by_itself(ended: Nettrace) -> None:
    # A packet socket and a UDP socket had the datagram: one of them a clone.
    (block,) = ended.blocks
    assert len(block.skbs) == 1
    assert "skb_clone" in block.traces


def test_a_closed_pipe_ends_it_silently(pair: tuple[Host, Host]) -> None:
    left, right = pair
    pinger = left.popen("ping", "-n", "-i", "0.2", right.ip)
    done = subprocess.run(
        f"{sys.executable} -m nettrace -p icmp --addr {right.ip} -t icmp,ip-in | head -n 4", shell=True, cwd=CHECKOUT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    pinger.terminate()
    pinger.communicate()
    assert done.stdout.startswith("begin trace...\n*****")
    assert done.stdout.count("\n") == 4
    assert done.stderr == ""


def test_a_kill_leaves_nothing_attached() -> None:
    with Nettrace("-p", "icmp", "-t", "icmp,ip-in") as trace:
        assert len(attached()) > 5
        trace.kill()
    limit = time.monotonic() + 60
    # The kernel takes the probes away after the process is gone.
    while attached():
        assert time.monotonic() < limit, attached()


def test_without_root_it_says_so() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "nettrace", "-p", "icmp"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "this process lacks CAP_BPF and CAP_PERFMON: run nettrace with sudo" in done.stderr


def test_without_bcc_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("")
    done = run("-p", "icmp", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "python3-bpfcc" in done.stderr
    assert "dnf install" in done.stderr


# tests/test_cli.py has all the others; these two, too, are told on a kernel where the run could have been.
@pytest.mark.parametrize(
    ("options", "words"),
    [([], "--force"), (["-t", "icmp_rvc", "-p", "icmp"], "did you mean 'icmp_rcv'")],
    ids=["nothing", "a typing error"],
)
def test_bad_options_are_refused_in_one_sentence(options: list[str], words: str) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_the_tree_tells_what_this_kernel_has() -> None:
    done = run("-t", "?")
    assert done.returncode == 0
    # What does not fit is in lines of its own.
    lines = re.sub(r"\n {10,}(?=\S)", "  ", done.stdout).splitlines()
    listed = Path("/sys/kernel/tracing/available_filter_functions").read_text()
    traceable = {line.split()[0] for line in listed.splitlines()}
    attached = [line.strip() for line in lines if re.match(" {6}[+o] ", line)]
    for line in attached:
        found = re.search(r" \[(?!module )([^],]+)", line)
        symbol = found[1] if found else line.split()[1]
        assert symbol.startswith("tracepoint ") or symbol in traceable, line
    assert any(re.match(r"\+ icmp_rcv  [^[]*$", line) for line in attached)
    assert any(re.match(r"\+ consume_skb  .* \[tracepoint skb:consume_skb\]$", line) for line in attached)


def test_the_bpf_program_can_be_printed() -> None:
    done = run("-p", "icmp", "--print-bpf")
    assert done.returncode == 0
    assert "#define FILTER_L4 0x1\n" in done.stdout
    assert '#line 1 "stubs"\n' in done.stdout


def test_no_kernel_headers_are_installed() -> None:
    assert sh("ls -d /usr/src/linux-headers* /lib/modules/*/build", check=False).count("No such file") == 2


# CAP_BPF, CAP_PERFMON, CAP_SYSLOG and CAP_DAC_READ_SEARCH; older programs do not know the names.
CAPABILITIES = "+cap_39,+cap_38,+cap_34,+cap_2"
NOBODY = 65534


def test_capabilities_do_in_place_of_root(
    pair: tuple[Host, Host], kernel_limits_maps: bool, events_for_all: None
) -> None:
    left, right = pair
    # What root has compiled, as if this user had.
    programs = Path(sh("mktemp -d /tmp/programs.XXXXXX").strip())
    sh(f"cp -r /var/cache/nettrace/. {programs}; chown -R {NOBODY}:{NOBODY} {programs}")
    few = CAPABILITIES + (",+cap_24" if kernel_limits_maps else "")  # CAP_SYS_RESOURCE
    unprivileged = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps=-all,{few}",
        f"--ambient-caps=-all,{few}", sys.executable, "-m", "nettrace",
    ]  # fmt: skip
    pinger = left.popen("ping", "-n", "-i", "0.5", right.ip)
    try:
        done = subprocess.run(
            [*unprivileged, "-p", "icmp", "-d", right.ip, "-c", "1"], cwd=CHECKOUT, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, "NETTRACE_PROGRAM_CACHE": str(programs)},
        )  # fmt: skip
    finally:
        pinger.terminate()
        pinger.communicate()
    assert (done.returncode, f"{left.ip} -> {right.ip} ping request" in done.stdout) == (0, True), done.stderr
    checked = subprocess.run(
        [*unprivileged, "--check"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=200, check=False
    )
    assert checked.returncode == 0 and checked.stdout.endswith("\nnettrace works here\n"), checked.stdout
    assert re.search(r"^  ! CAP_SYS_ADMIN ", checked.stdout, re.MULTILINE)
    sh(f"rm -r {programs}")


@pytest.fixture
def events_for_all() -> Iterator[None]:
    """Debian's kernels let CAP_PERFMON not do for single kprobes."""
    before = sh("sysctl -n kernel.perf_event_paranoid").strip()
    sh("sysctl -qw kernel.perf_event_paranoid=2")
    yield
    sh(f"sysctl -qw kernel.perf_event_paranoid={before}")


@pytest.fixture
def kernel_limits_maps() -> bool:
    """Whether this kernel charges maps against a limit of their user."""
    return " bpf_map_charge_init\n" in Path("/proc/kallsyms").read_text()


def test_types_of_another_kernel_are_refused(tmp_path: Path) -> None:
    other = "5.10" if not os.uname().release.startswith("5.10") else "7.2"
    with tarfile.open(CHECKOUT / f"tests/data/kernels/{other}/sys/kernel/btf.tar.gz") as archive:
        types = archive.extractfile("vmlinux")
        assert types is not None
        (tmp_path / "vmlinux").write_bytes(types.read())
    done = run("-p", "icmp", "--btf", str(tmp_path / "vmlinux"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"{tmp_path}/vmlinux is of another kernel (struct " in done.stderr
