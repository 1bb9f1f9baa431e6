"""Where the process starts: `warpjet` and `python -m warpjet`."""

import signal
import sys


def main() -> int:
    """Runs the command. Returns its exit code."""
    interrupted = signal.getsignal(signal.SIGINT)
    ours = interrupted is signal.default_int_handler
    if ours:
        # KeyboardInterrupt is lost where it meets a callback of the import machinery, so Ctrl-C ends the process here.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from warpjet.commands import main as cli

    if ours and sys.argv[1:2] != ["serve"]:  # the server goes on loading modules, and has handlers of its own
        signal.signal(signal.SIGINT, interrupted)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
