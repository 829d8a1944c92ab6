"""Empty BPF programs where nettrace would attach its own: what any tracer of these functions pays at least.

python3 -m bench.floor NETTRACE-OPTIONS... prints "begin trace..." when they are attached, and ends with Ctrl-C.
"""

import signal
import sys
from dataclasses import replace

from nettrace import cache, commands, options
from nettrace.bpf import Session
from nettrace.kernel import Kernel
from nettrace.objects import Code, Object
from nettrace.starts import Starts

# r0 = 0; exit
_NOTHING = Code(bytes.fromhex("b7000000000000009500000000000000"), (), ())


def main() -> None:
    asked = options.parse(sys.argv[1:])
    kernel = Kernel()
    packet_filter = options.packet_filter(asked, None)
    setup, compiled = commands.begun(asked, kernel, packet_filter, Starts(cache.folder()))
    start = compiled()
    real = start.programs
    empty: Object = replace(real, programs=dict.fromkeys(real.programs, _NOTHING))
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    values = (*packet_filter.numbers().values(), *start.addresses)
    with Session(empty, values, setup.what, setup.settings, setup.multi) as session:
        session.attach()
        print("begin trace...", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
