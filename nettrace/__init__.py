"""nettrace follows packets through the Linux kernel and says where and why they die.

A recording (`nettrace -w FILE`) is read with:

    import nettrace

    with nettrace.open("incident.ntr") as recording:
        for packet in recording:
            for finding in recording.findings(packet):
                print(finding.level, finding.event.trace, finding.message)

Packets are nettrace.event.Context, their steps nettrace.event.Event, findings nettrace.diagnosis.Finding; what goes
wrong is raised as one of nettrace.errors. All of it is typed. examples/check_flow.py is a check for a CI job.
"""

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .replay import Recording

__all__ = ["__version__", "open"]


def open(path: str) -> "Recording":
    """A recording: iterate over its packets, ask it for findings; see nettrace.replay.Recording.

    UsageError where there is no such file, StreamError where it is no recording.
    """
    from .replay import Recording

    return Recording(path)
