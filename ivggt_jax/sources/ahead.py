"""Reading in a thread: ahead, while the model works on the current frame, or on request, where a frame may be long in coming."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
SECONDS_TO_WAIT = 0.02
"""For an item, before the consumer hears that it is not there yet."""


def read_ahead(items: Generator[Item, None, None], depth: int = 2) -> Generator[Item, None, None]:
    """Run a generator in a thread, at most `depth` items ahead of the consumer.

    Items come in order, and an exception where it happened. When the consumer stops early, the item in the making is
    finished, the thread ends and the generator is closed before `close` returns.
    """
    end = object()
    waiting: deque[Future[Any]] = deque()
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


def read_on_request(items: Iterator[Item], while_waiting: Callable[[], None]) -> Generator[Item, None, None]:
    """Run an iterator in a thread, which makes an item only when it is asked for.

    While it is not there, `while_waiting` is called again and again; what that raises ends the wait. A thread that is
    stuck in the iterator then is left to end with the process.
    """
    end = object()
    requests: SimpleQueue[Future[Any] | None] = SimpleQueue()

    def make() -> None:
        while (future := requests.get()) is not None:
            try:
                future.set_result(next(items, end))
            except BaseException as error:
                future.set_exception(error)

    Thread(target=make, name="read-on-request", daemon=True).start()
    try:
        while True:
            future: Future[Any] = Future()
            requests.put(future)
            while not wait([future], SECONDS_TO_WAIT).done:
                while_waiting()
            if (item := future.result()) is end:
                break
            yield item
    finally:
        requests.put(None)
