"""How busy the machine is while a stage works."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_SECONDS = 10.0
_MEGA = 1e6

Tell = Callable[[dict[str, float]], None]


@contextmanager
def sampled(tell: Tell, seconds: float = _SECONDS) -> Iterator[None]:
    """Call ``tell`` with :func:`sample` every ``seconds`` while the body runs, and at its end.

    The sampling thread sleeps nearly always, so that it takes no time from the work.
    """
    ended = threading.Event()
    gpus = _gpus()

    def watch() -> None:
        psutil.cpu_percent()  # the first call only sets the mark to count from
        while not ended.wait(seconds):
            tell(sample(gpus))

    thread = threading.Thread(target=watch, name="system metrics", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if time.monotonic() - started > 1:
            tell(sample(gpus))


def sample(gpus: list[Any]) -> dict[str, float]:
    """Percentages and megabytes (of 10^6 bytes), named as MLflow's own system metrics are.

    ``system/process_memory_megabytes`` is this process's resident memory.
    """
    memory = psutil.virtual_memory()
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": memory.used / _MEGA,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / _MEGA,
    }
    with suppress(Exception):  # a driver that stops answering must not harm the work
        import pynvml

        for number, gpu in enumerate(gpus):
            used = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            name = f"system/gpu_{number}"
            values[f"{name}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            values[f"{name}_memory_usage_percentage"] = 100 * used.used / used.total
            values[f"{name}_memory_usage_megabytes"] = used.used / _MEGA
            values[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return values


def gpu_names() -> list[str]:
    """The names of the machine's NVIDIA cards; empty where there are none."""
    with suppress(Exception):
        import pynvml

        return [str(pynvml.nvmlDeviceGetName(gpu)) for gpu in _gpus()]
    return []


def _gpus() -> list[Any]:
    """Handles of the NVIDIA cards, if there are any."""
    with suppress(Exception):  # no driver, or no card
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return []
