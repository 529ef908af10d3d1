"""The command line's door; also ``python -m distilwhisper``, for torchrun and other launchers."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; an interrupt while its modules are loaded ends it without a word more.

    Whatever is being imported then may make of KeyboardInterrupt what it likes, so none is raised.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else a shell has it ignored, for the background
        signal.signal(signal.SIGINT, _leave)
    from distilwhisper.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _leave(_: int, __: FrameType | None) -> None:
    os.write(2, b"distilwhisper: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
