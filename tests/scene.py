"""Network namespaces for unit tests, without root: a shell makes them, Python asks there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--fork", "--kill-child"]

# Two namespaces: the one that is asked in, and a neighbour that holds the other end of the cable.
BEGIN = """
set -e
export PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
unshare --net sleep 1000 & far=$!
trap 'kill $far' EXIT
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/self/ns/net)" ] && [ -e /proc/$far/ns/net ]; do :; done
far() { nsenter --net=/proc/$far/ns/net "$@"; }
ip link add eth0 type veth peer name eth1 netns $far
ip addr add 10.5.0.1/24 dev eth0
ip addr add fd05::1/64 dev eth0 nodad
ip link set eth0 up
far ip addr add 10.5.0.2/24 dev eth1
far ip link set eth1 up
"""

PYTHON = """
import json, os, socket, sys
from functools import partial
from nettrace import evidence_sockets, netns
from nettrace.evidence import read
from nettrace.evidence_devices import *
from nettrace.evidence_routes import *
from nettrace.evidence_sockets import *
evidence_sockets.SEARCH_S = 20  # however slow this machine is now
near, far = netns.current(), os.stat(f"/proc/{os.environ['FAR']}/ns/net").st_ino
eth0 = socket.if_nametoindex("eth0")
def show(*facts, where=near):
    print(json.dumps(read(where, *facts, timeout_s=20)))
"""


def refused() -> str:
    """Why this host permits no namespaces, or nothing if it does."""
    for tool in ("unshare", "nsenter", "ip"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return f"{tool} is not installed"
    command = [*UNSHARE, "sh", "-c", BEGIN]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout.strip().splitlines()[0] if done.returncode else ""


def play(shell: str, python: str) -> list[list[tuple[str, str]]]:
    """Runs shell commands and then Python in fresh namespaces; what `show` in it found, each as source and text."""
    pytest.importorskip("pyroute2")
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", f'{BEGIN}\n{shell}\nFAR=$far "{sys.executable}" -c "$CODE"'],
        cwd=CHECKOUT, env={**os.environ, "CODE": PYTHON + python},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [[(source, text) for source, text in json.loads(line)] for line in done.stdout.splitlines()]
