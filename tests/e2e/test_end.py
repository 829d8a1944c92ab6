"""How a run ends, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import attached
from .net import Host, ping, sh
from .tool import CHECKOUT, Nettrace, run


def test_sigterm_ends_it_with_the_summary(pair: tuple[Host, Host]) -> None:
    left, right = pair
    with Nettrace("-p", "icmp", "--addr", right.ip) as trace:
        assert ping(left, right.ip)["received"] == 1
        trace.wait_blocks(2)
        assert trace.stop(signal.SIGTERM) == 0
    assert trace.output[-1] == "end trace..."
    assert trace.summary("packets") == 2
    assert trace.stderr.count("\n") == 1


def test_a_packet_still_on_its_way_is_printed_at_the_end(pair: tuple[Host, Host]) -> None:
    left, right = pair
    receiver = right.popen(sys.executable, str(Path(__file__).with_name("peer.py")), "udp-hold", right.ip, "6030")
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    with Nettrace("-p", "udp", "-D", "6030") as trace:
        left.sh(f"{sys.executable} {Path(__file__).with_name('peer.py')} udp-send {right.ip} 6030 1 0")
        assert trace.stop() == 0
    receiver.kill()
    receiver.communicate()
    (block,) = trace.blocks
    assert block.marks == ["unfinished"]
    assert block.traces[-1] == "__udp_enqueue_schedule_skb"
    assert trace.summary("unfinished") == 1


def test_a_closed_pipe_ends_it_silently(pair: tuple[Host, Host]) -> None:
    left, right = pair
    pinger = left.popen("ping", "-n", "-i", "0.2", right.ip)
    done = subprocess.run(
        f"{sys.executable} -m nettrace -p icmp --addr {right.ip} | head -n 4", shell=True, cwd=CHECKOUT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    pinger.terminate()
    pinger.communicate()
    assert done.stdout.startswith("begin trace...\n*****")
    assert done.stdout.count("\n") == 4
    assert done.stderr == ""


def test_a_kill_leaves_nothing_attached() -> None:
    with Nettrace("-p", "icmp") as trace:
        assert attached() != []
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
    assert "root" in done.stderr


@pytest.mark.parametrize(
    ("module", "text", "package"),
    [("bcc", "", "python3-bpfcc"), ("yaml", "raise ImportError('gone')", "python3-yaml")],
)
def test_a_missing_module_is_named_with_its_package(tmp_path: Path, module: str, text: str, package: str) -> None:
    (tmp_path / f"{module}.py").write_text(text)
    done = run("-p", "icmp", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert package in done.stderr
    assert "dnf install" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--force"),
        (["-t", "all"], "--force"),
        (["-t", "icmp_rvc", "-p", "icmp"], "did you mean 'icmp_rcv'"),
        (["-s", "10.0.0.1", "-d", "fd00::1"], "IPv4 and IPv6"),
        (["-p", "icmp", "-P", "80"], "port"),
        (["-p", "tpc"], "did you mean 'tcp'"),
        (["-c", "0", "-p", "tcp"], "-c"),
        (["--saddr", "10.0.0.256"], "10.0.0.256"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
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
    lines = [line.strip() for line in done.stdout.splitlines()]
    listed = Path("/sys/kernel/tracing/available_filter_functions").read_text()
    traceable = {line.split()[0] for line in listed.splitlines()}
    for line in lines:
        if line.startswith("- ") and "[function " in line:
            assert line.rsplit("[function ", 1)[1][:-1] in traceable, line
    assert any(line.startswith("- icmp_rcv: ") and line.endswith("[function icmp_rcv]") for line in lines)
    assert any(line.startswith("- consume_skb: ") and line.endswith("[tracepoint consume_skb]") for line in lines)


def test_the_bpf_program_can_be_printed() -> None:
    done = run("-p", "icmp", "--print-bpf")
    assert done.returncode == 0
    assert "#define FILTER_L4 0x1\n" in done.stdout
    assert "int work_of_kprobe(" in done.stdout


def test_no_kernel_headers_are_installed() -> None:
    assert sh("ls -d /usr/src/linux-headers* /lib/modules/*/build", check=False).count("No such file") == 2
