"""Evidence for a finding: what this host says of itself, read from where the packet was, now.

What there is to read is in the modules evidence_sockets, evidence_routes and evidence_devices: functions that
yield Evidence and are called inside the packet's namespace, by a child. Nothing here ever changes anything.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

from . import netlink
from .inside import TIMEOUT_S, NoAnswer, answers, elsewhere

ROOT = Path("/")
# In how many other namespaces it is looked for something.
NAMESPACES = 64

# A collector with its arguments, as a functools.partial.
Fact = Callable[[], Iterable["Evidence"]]


class Evidence(NamedTuple):
    """Where something was read, and what it says, in one line."""

    source: str
    text: str


def prepare() -> None:
    """Imports what is slow to import, about a second; else the first evidence takes that longer."""
    try:
        netlink.prepare()
    except netlink.NotInstalled:
        return  # the evidence will say so


def read(netns: int, *facts: Fact, timeout_s: float = TIMEOUT_S) -> list[Evidence]:
    """All these facts, read one after the other in that namespace, as far as the time goes; never raises.

    For example read(netns, partial(rp_filter, "eth0", "10.0.0.1"), partial(forwarding, "eth0", socket.AF_INET)).
    """
    prepare()
    found: list[Evidence] = []
    try:
        for evidence in answers(netns, partial(_all, facts), timeout_s=timeout_s):
            found.append(evidence)
    except NoAnswer as error:
        what = "the rest of the evidence" if found else "the evidence"
        found.append(Evidence("nettrace", f"{what} could not be read: {error}"))
    return found


def proc(name: str, root: Path = ROOT) -> Optional[str]:
    """The text of a file in /proc, if it is there; /proc/net and /proc/sys/net are those of the namespace."""
    try:
        return (root / "proc" / name).read_text(errors="replace").strip()
    except OSError:
        return None


def from_proc(name: str, text: str) -> Evidence:
    """What was made of a file in /proc."""
    return Evidence(f"/proc/{name}", text)


def setting(name: str, root: Path = ROOT) -> Optional[str]:
    """A setting of sysctl(8), such as net/ipv4/ip_forward, if there is one."""
    return proc(f"sys/{name}", root)


def from_setting(name: str, text: str) -> Evidence:
    """What was made of a setting."""
    return from_proc(f"sys/{name}", text)


def told_setting(name: str, what: str, root: Path = ROOT, *, of_the_host: bool = False) -> Iterator[Evidence]:
    """A setting, if there is one, and what it is the setting of.

    of_the_host: it holds for all namespaces, but may be seen from the first one only.
    """
    value = setting(name, root)
    if value is None and of_the_host:
        values = (there for _, there in elsewhere(lambda: setting(name, root), NAMESPACES))
        value = next((there for there in values if there is not None), None)
    if value is not None:
        yield from_setting(name, f"{what}: {' '.join(value.split())}")


def counters(name: str, root: Path = ROOT) -> dict[str, dict[str, int]]:
    """The counters of /proc/net/snmp or /proc/net/netstat, by protocol and name."""
    found: dict[str, dict[str, int]] = {}
    lines = (proc(f"net/{name}", root) or "").splitlines()
    for names, values in zip(lines[::2], lines[1::2]):
        protocol, _, rest = names.partition(":")
        numbers = [int(value) for value in values.split()[1:]]
        found[protocol] = dict(zip(rest.split(), numbers))
    return found


def _all(facts: tuple[Fact, ...]) -> Iterator[Evidence]:
    missing: set[str] = set()
    for fact in facts:
        try:
            yield from fact()
        except netlink.NotInstalled as error:
            if str(error) not in missing:
                missing.add(str(error))
                yield Evidence("pyroute2", str(error))
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            name = getattr(getattr(fact, "func", fact), "__name__", "it").replace("_", " ")
            yield Evidence("nettrace", f"{name} could not be read: {reason}")
