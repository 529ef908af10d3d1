"""Work that waits for a disk, done some items ahead and handed out in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

N_THREADS = 8  # they wait for disks more than they compute

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    n_threads: int = N_THREADS,
    n_ahead: int = 2 * N_THREADS,
) -> Generator[Result, None, None]:
    """Apply a function to items, ``n_ahead`` of them ahead, and yield results in their order."""
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > n_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
