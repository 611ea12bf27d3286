"""Reading ahead: the next frames are made in a thread while the model works on the current one."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Generator[Item, None, None], depth: int = 2) -> Generator[Item, None, None]:
    """Run a generator in a thread, at most `depth` items ahead of the consumer.

    Items come in order, and an exception where it happened. When the consumer stops early, the item in the making is
    finished, the thread ends and the generator is closed before `close` returns.
    """
    end = object()
    waiting: deque[Future] = deque()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
            try:
                waiting.extend(thread.submit(next, items, end) for _ in range(depth))
                while (item := waiting.popleft().result()) is not end:
                    waiting.append(thread.submit(next, items, end))
                    yield item
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        items.close()
