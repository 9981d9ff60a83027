"""Whatever else is raised, and the class that says it in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from repairops.errors.base import RepairError, one_line
from repairops.errors.training import RankLost


class Unforeseen(RepairError):
    """What no other class stands for; its cause is what was raised."""

    message = (
        "{}: {}. Nobody foresaw this: `repairops --traceback` before the command's name shows where it comes from. "
        "Please report it with `repairops doctor --json`."
    )


class Interrupted(RepairError):
    message = "The job was interrupted ({}). The same command goes on where it stopped."


class NoSpace(RepairError):
    message = (
        "No space is left on a disk: {}. Free some (`repairops clean` lists and removes what ended jobs left), or set "
        "REPAIROPS_HOME to another disk; then run the same command again: it goes on where it stopped."
    )


class NoMemory(RepairError):
    message = "There is not enough memory: {}. Lower training.batch_size or training.max_train_images."


class FileUnusable(RepairError):
    message = "{} cannot be used: {}. Check the path and its rights, then run the same command again."


_LOST = ("gloo", "NCCL", "Connection closed by peer")  # what torch's collectives raise when a process is gone
_FULL = ("No space left on device", "os error 28", "database or disk is full", "Disk quota exceeded")


def foreseen(error: BaseException) -> RepairError:
    """What is raised in place of any exception: itself where it is ours, else the class for its fact, in one line."""
    if isinstance(error, RepairError):
        return error
    text = one_line(error)
    if is_full_disk(error):
        return NoSpace(text)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is a RuntimeError
        return NoMemory(text)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(str(error) or "Ctrl-C")  # SIGTERM says its name, see `stages.job.stoppable`
    if isinstance(error, RuntimeError) and any(word in text for word in _LOST):
        return RankLost(text)
    if isinstance(error, OSError) and error.filename is not None:
        return FileUnusable(error.filename, error.strerror or text)
    return Unforeseen(type(error).__name__, text)


def has_own_class(error: BaseException) -> bool:
    """Whether it is a fact by itself (no memory, a full disk, a lost process), whatever was computed when it came."""
    return not isinstance(foreseen(error), Unforeseen)


@contextmanager
def all_foreseen() -> Iterator[None]:
    """Whatever is raised inside, or in the function that this decorates, is a RepairError; Ctrl-C stays what it is."""
    try:
        yield
    except RepairError:
        raise
    except Exception as error:
        raise foreseen(error) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether it says that a disk, here or under a server's database, is full. safetensors' own class has no number."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in _FULL)
