"""
Run a program that cannot outlive the process that started it.

``python -I -S tethered.py SIGNAL PARENT_PID UID GID PROGRAM [ARGUMENT ...]``
asks the kernel to send SIGNAL when the parent is gone, however it went, gives
up root's rights if a UID other than ``-`` is named, and becomes PROGRAM: the
process id stays the same. It is a program of its own and not a ``preexec_fn``,
because Python code between fork and exec may deadlock in a threaded parent.

The kernel means the *thread* that started us; start programs from the main one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become the program that *arguments* name; returns only by raising."""
    signal_number, parent, uid, gid, *program = arguments
    # Loaded first: the user we become may not be able to read this Python.
    libc = ctypes.CDLL(None, use_errno=True)
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # After the change of user, which resets the request.
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if os.getppid() != int(parent):
        # The parent died before we asked: nobody would tell us any more.
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
