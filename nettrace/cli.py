"""The command line: options, errors, exit statuses."""

import gc
import os
import sys
from collections.abc import Sequence
from typing import Optional

from . import options
from .errors import BpfError, NettraceError
from .printable import printable

INTERRUPTED = 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the program and returns its exit status: 0, 1 for what failed, 2 for bad options."""
    # What is made here has no cycles: looking for some after each 700 things takes a tenth of the time.
    gc.set_threshold(50_000)
    debug = False
    try:
        asked = options.parse(arguments)
        asked.command = tuple(sys.argv[1:] if arguments is None else arguments)
        debug = asked.debug
        # --help and wrong options wait for nothing that they do not need.
        from . import commands

        status = commands.run(asked)
        sys.stdout.flush()
        return status
    except NettraceError as error:
        if isinstance(error, BpfError) and debug:
            print(error.log, file=sys.stderr)
        print(f"nettrace: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
