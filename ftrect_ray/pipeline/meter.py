"""Seconds, CPU seconds and resident memory of this process and of all that it started."""

from __future__ import annotations

import os
import threading
import time

import psutil

#: Every how many samples memory is measured too: the system adds up page tables for it, which costs CPU time.
MEMORY_EVERY = 5


class Meter:
    """Samples the process tree in a thread while it is open.

    On a cluster that this process did not start, only the driver's own tree is seen; wall seconds always hold.

    Parameters
    ----------
    interval : float
        Seconds between samples. A process that lives shorter than this may be missed.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Since the meter was opened.
    peak_bytes : int
        Largest sum of proportional set sizes (shared pages counted once) seen so far.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._cpu: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="meter")
        self._samples = 0
        self.peak_bytes = 0

    def __enter__(self) -> Meter:
        self._began = time.monotonic()
        self._sample()
        self._before = sum(self._cpu.values())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def cpu_seconds(self) -> float:
        with self._lock:
            return sum(self._cpu.values()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process(os.getpid())
        weigh = self._samples % MEMORY_EVERY == 0
        self._samples += 1
        resident = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                key = (process.pid, process.create_time())
                with self._lock:
                    self._cpu[key] = times.user + times.system
                if weigh:
                    resident += _proportional_bytes(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        self.peak_bytes = max(self.peak_bytes, resident)


def _proportional_bytes(process: psutil.Process) -> int:
    """PSS where the system tells it (Linux), else the resident size, which counts shared pages again."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))
