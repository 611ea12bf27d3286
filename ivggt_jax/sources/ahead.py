"""Reading in a thread: ahead, while the model works on the current frame, or on request, if a frame may be slow to come."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
SECONDS_TO_WAIT = 0.02
"""Time to wait for an item before telling the consumer that it is not there yet."""


def read_ahead(items: Generator[Item, None, None], depth: int = 2) -> Generator[Item, None, None]:
    """Run a generator in a thread, at most `depth` items ahead of the consumer.

    Items come in order, and an exception comes in the place where it was raised. If the consumer stops early, `close` waits until
    the current item is finished, the thread has ended and the generator is closed.
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
    """Run an iterator in a thread that fetches an item only on request.

    While waiting for it, `while_waiting` is called repeatedly; an exception from it ends the wait. A thread that is then still
    blocked in the iterator is left to end with the process.
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
