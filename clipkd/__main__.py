"""`clipkd` and `python -m clipkd`: the command, from its first moment to its last."""

import os
import sys

if __name__ == "__main__":
    # `python -m` looks for modules in the working folder first: a torch.py that lies there is not meant.
    sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

IMPORTING = "<frozen importlib._bootstrap>"


def run() -> int:
    """Run the command; return its exit code.

    Python's own answer to Ctrl-C is an exception wherever it happens to be: in the middle of an import it may be
    printed and forgotten, and at the end of the process it is a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    open_streams()
    import atexit
    import gc

    atexit.register(gc.freeze)  # Python would look for garbage among all of torch before it ends: 0.2 to 0.4 s
    try:
        from clipkd.cli import main  # takes a while, in which Ctrl-C may come

        return main()
    except KeyboardInterrupt:  # before or after the verb
        return stopped()
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_streams() -> None:
    """Give a process that was started without one of its streams (`>&-`) one that leads nowhere.

    Otherwise a file of data would get its number, and whatever is printed would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def stop(number: int, frame: "FrameType | None") -> None:
    """End at once where modules are being imported: nothing is begun that has to be tidied up. Else, raise."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            os._exit(stopped())
        frame = frame.f_back
    raise KeyboardInterrupt


def stopped() -> int:
    """Say that the command was stopped; return its exit code."""
    words = sys.argv[1:2]
    verb = words[0] + ": " if words and words[0].isalpha() else ""
    os.write(2, f"clipkd {verb}stopped\n".encode())
    return 128 + signal.SIGINT


if __name__ == "__main__":  # a process that trains one of several students imports this module too
    sys.exit(run())
