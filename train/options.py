"""Options of a class that are given as key=value."""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fastscan.train.errors import TrainError


def merge(earlier: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Return both, the later one where both name a key."""
    by_key = {option.partition("=")[0]: option for option in (*earlier, *later)}
    return tuple(by_key.values())


def parse(
    options: Sequence[str], function: Callable[..., Any], *, flag: str, without: Collection[str]
) -> dict[str, Any]:
    """Return the keyword arguments of `function` that the options stand for.

    A value is a Python literal, `true` or `false`, or else a string. Arguments in `without`, and
    those that are functions themselves, cannot be given.

    Raises:
        TrainError: an option is no key=value, or `function` has no such argument.
    """
    empty = inspect.Parameter.empty
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without and (parameter.default is empty or not callable(parameter.default))
    }
    values = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise TrainError(f"{flag} takes key=value, got {option!r}")
        if key not in known:
            listed = ", ".join(
                name if default is empty else f"{name}={default}" for name, default in known.items()
            )
            raise TrainError(
                f"{flag}: {getattr(function, '__name__', function)} has no option {key!r}; "
                f"there {f'are {listed}' if listed else 'is none'}"
            )
        values[key] = _value(text)
    return values


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type: a class, or a literal, a union or a tuple of any length.

    Whole numbers are of type float too, and `True` and `False` are no numbers.
    """
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Literal:
            return value in arguments
        case typing.Union | types.UnionType:
            return any(fits(value, argument) for argument in arguments)
        case origin if origin is tuple:
            return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
