"""nettrace as it is, but each packet becomes a line of JSON: the facts of its steps, for tests of these."""

import json
import sys

from nettrace import cli, sinks
from nettrace.event import Context


def context(text: sinks.Text, packet: Context) -> None:
    steps = [
        {
            "trace": event.trace,
            "netns": event.device.netns if event.device else 0,
            "returned": event.returned.value if event.returned else None,
            "facts": dict(event.facts),
        }
        for event in packet.events
    ]
    text.note(json.dumps(steps))


if __name__ == "__main__":
    sinks.Text.context = context  # type: ignore[method-assign]
    sys.exit(cli.main())
