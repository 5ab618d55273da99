"""The hands: arguments, signals, logging, asyncio.run. Installed as `swarm.cli`."""

import os.path
import signal
import sys

if os.path.basename(sys.argv[0]).startswith("swarm-") or sys.argv[0] == "-m":
    # One of our commands is starting (`-m` is what the interpreter calls itself until it has found the module), not somebody who imports us. Until `reporting`
    # takes over, Ctrl-C has nothing to close: it ends the process as it ends any other, instead of with the traceback of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
