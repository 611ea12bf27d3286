"""Words for messages: what was probably meant by a word that is none of the known ones, and counted things."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

CLOSE = 0.7
"""Least similarity, of 1 for the same word, at which a name is offered."""


def counted(number: int, thing: str = "frame") -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like a word, ignoring case; None if none is close."""
    by_folded = {name.casefold(): name for name in names}
    found = get_close_matches(word.casefold(), by_folded, 1, CLOSE)
    return by_folded[found[0]] if found else None


def meant(word: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` for the end of a message; empty if no name is close."""
    name = nearest(word, names)
    return "" if name is None else f"; did you mean {name}?"


def misspelt_choices(config: Any, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Words of a command line that an option does not take, each with the nearest one that it does.

    config: the dataclass of the options.
    """
    known = dict(_choices(config))
    option = ""
    for word in words:
        if word.startswith("--"):
            option, equals, word = word.partition("=")
            if not equals:
                continue
        choices = known.get(option, ())
        if choices and word not in choices and (name := nearest(word, choices)):
            yield word, name


def _choices(kind: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each option of a dataclass, and of those in it, that takes certain words, and the words."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        for part in get_args(kind):
            yield from _choices(part)
        return
    for name, hint in get_type_hints(kind).items():
        if words := tuple(_words(hint)):
            yield f"--{name.replace('_', '-')}", words
        yield from _choices(hint)


def _words(hint: Any) -> Iterator[str]:
    """The words of every Literal in a type."""
    if get_origin(hint) is Literal:
        yield from (word for word in get_args(hint) if isinstance(word, str))
    else:
        for part in get_args(hint):
            yield from _words(part)
