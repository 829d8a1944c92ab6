"""Everything nettrace raises on purpose: one sentence, and what the user can do about it.

* NettraceError
  x ConfigurationError    a file of ours or the user's is wrong: file:line
  x UsageError            the command line contradicts itself or names what does not exist
  x KernelError           this host or kernel lacks something
  x BpfError              compiling, loading or attaching failed: the stage and the log
  x StreamError           the stream of events cannot be read
"""

from typing import Optional


class NettraceError(Exception):
    """Base of all; `exit_status` is what the process ends with."""

    exit_status = 1


class ConfigurationError(NettraceError):
    """A YAML file is wrong.

    The text begins with `file:line:` where the place is known.
    """

    def __init__(self, message: str, *, file: object = None, line: Optional[int] = None) -> None:
        place = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(place + message)


class UsageError(NettraceError):
    """The command line is wrong; the process ends with status 2."""

    exit_status = 2


class KernelError(NettraceError):
    """What is missing on this host, and what to do about it."""

    def __init__(self, missing: str, remedy: str = "") -> None:
        super().__init__(f"{missing}: {remedy}" if remedy else missing)
        self.missing = missing
        self.remedy = remedy


class BpfError(NettraceError):
    """A stage of bringing the BPF programs into the kernel failed; `log` is the compiler's or verifier's."""

    def __init__(self, stage: str, message: str, log: str = "") -> None:
        super().__init__(f"{stage}: {message}")
        self.log = log


class StreamError(NettraceError):
    """Bytes from the kernel, or a recording, that are not what they should be."""
