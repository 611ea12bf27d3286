import itertools
import threading

import pytest

from ivggt_jax.sources.ahead import read_ahead, read_on_request


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def counting(made, closed, stop=None, error_at=None):
    try:
        for number in itertools.count() if stop is None else range(stop):
            if number == error_at:
                raise KeyError(number)
            made.append(number)
            yield number
    finally:
        closed.append(True)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_same_items_in_order(depth, count):
    closed = []
    assert list(read_ahead(counting([], closed, stop=count), depth)) == list(range(count))
    assert closed and not reading_threads()


def test_never_further_ahead_than_asked():
    made, closed = [], []
    ahead = read_ahead(counting(made, closed), depth=2)
    for number in range(50):
        assert next(ahead) == number
        assert len(made) <= number + 3
    ahead.close()
    assert len(made) <= 52


def test_items_are_made_in_one_other_thread():
    def where():
        for _ in range(10):
            yield threading.get_ident()

    idents = set(read_ahead(where()))
    assert len(idents) == 1 and threading.get_ident() not in idents


def test_an_exception_comes_where_it_happened():
    closed, got = [], []
    with pytest.raises(KeyError, match="3"):
        for number in read_ahead(counting([], closed, error_at=3)):
            got.append(number)
    assert got == [0, 1, 2]
    assert closed and not reading_threads()


def test_stopping_early_ends_the_thread_and_closes_the_generator():
    closed = []
    ahead = read_ahead(counting([], closed))
    assert next(ahead) == 0
    assert reading_threads() and not closed
    ahead.close()
    assert closed and not reading_threads()


def test_an_exception_of_the_consumer_ends_the_thread():
    closed = []
    with pytest.raises(RuntimeError):
        for _ in read_ahead(counting([], closed)):
            raise RuntimeError
    assert closed and not reading_threads()


def test_never_started_is_closed_too():
    made = []
    read_ahead(counting(made, [])).close()
    assert not made and not reading_threads()


def test_on_request_an_item_is_made_when_it_is_asked_for():
    made, got = [], []
    for number in read_on_request(counting(made, [], stop=5), lambda: None):
        got.append(number)
        assert made == got
    assert got == list(range(5))
    with pytest.raises(KeyError, match="1"):
        list(read_on_request(counting([], [], error_at=1), lambda: None))


def test_a_wait_is_noticed_and_can_be_ended():
    there, calls = threading.Event(), []

    def items():
        yield 0
        there.wait(20)
        yield 1
        there.wait(20)
        yield 2

    def while_waiting():
        calls.append(len(calls))
        if len(calls) == 3:
            there.set()
        if len(calls) == 5:
            raise InterruptedError

    requested = read_on_request(items(), while_waiting)
    assert next(requested) == 0 and not calls
    assert next(requested) == 1 and len(calls) == 3
    there.clear()
    with pytest.raises(InterruptedError):
        next(requested)
    there.set()
