"""``ftrect``: the command line. Exit codes: 0 done, 2 input, 3 environment, 4 statistical refusal, 130 interrupted."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from ftrect_ray.cli import parser as grammar
from ftrect_ray.errors import EnvironmentFault, FtrectError, InputError

#: What the system says of a path that a user named.
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C so that state is kept and Ray is shut down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _take_sigterm()
        options = grammar.parse(*grammar.build(), words)
        from ftrect_ray.cli import commands

        return commands.COMMANDS[options.command](options)
    except FtrectError as error:
        return _report(error, words)
    except KeyboardInterrupt as stop:
        if "run" in words or "evaluate" in words:
            print("interrupted: what is finished stays; the same command continues", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            mend = "free space, then run the same command again; what is finished stays"
            return _report(
                EnvironmentFault(os.strerror(error.errno), where=str(error.filename or ""), mend=mend), words
            )
        if error.errno in UNUSABLE:
            where = str(error.filename or str(error).splitlines()[0])
            return _report(InputError(os.strerror(error.errno), where=where, mend="name another file or folder"), words)
        raise


def _report(error: FtrectError, words: list[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    for line in str(error).split("\n"):
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code


def _take_sigterm() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the host process decides what SIGTERM does
        return
