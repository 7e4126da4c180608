"""Odd arguments, and what may come of them: a right answer, or an error that names the argument; quickly, and no other.

For the tables of `test_arguments*.py`: name of a function -> (a small call that works and takes other arguments by
keyword, {argument: what of it is legal}). One argument is replaced at a time. The short form runs always;
SCOREFUSION_FUZZ_CALLS=10000 makes so many calls of each function, other ones every time.
"""

import dataclasses
import inspect
import math
import operator
import os
import re
import types
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import scorefusion as sf
from scorefusion.analytic import GaussianMixture

CALLS = int(os.environ.get("SCOREFUSION_FUZZ_CALLS", "0"))
TOGETHER = 20  # calls of one example: hypothesis takes a millisecond for each of these, most calls take less
MARKS = [pytest.mark.usefixtures("host_only"), *([pytest.mark.timeout(0)] if CALLS else [])]


class Raises:
    """Raises whatever it is asked."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)

    __len__ = __getitem__ = __float__ = __index__ = __array__ = __call__ = lambda *_, **__: 1 / 0


ODD = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**400, -(10**400), 10**5000, 0.5, 2.0, 2.5, -0.0, math.nan,
    math.inf, -math.inf, 5e-324, 1e308, 1j, "", "x", "7", "nan", b"x", (), [], [[]], [None], ["a", "b"], {}, {1},
    {"a": 1}, object(), object, len, ..., np.float32(2), np.int64(3), np.array(2), np.array(1.0), np.array([]),
    np.zeros((0, 1)), np.zeros((3, 0), "float32"),
    np.array("x"), np.array([None, {}]), np.zeros(2, "complex64"), np.zeros((4, 1), "int8"), np.full((4, 1), np.nan),
    np.zeros((4, 1), ">f4"), np.zeros((5, 1)), np.zeros(4), np.zeros((4, 2)), np.ma.masked_array([1.0], [True]),
    np.datetime64(1, "s"), memoryview(b"12345678"), range(2), range(1000), iter([1.0, 2.0]), Raises(), sf.Noise(1),
    sf.schedule.VP, sf.schedule.VP(), sf.schedule.EDM(), GaussianMixture([1.0], [[0.0]], [1.0]), lambda *_: None,
    lambda *_: 1.0, lambda *a: a[0], lambda *_: np.full((4, 1), np.nan), lambda *_: np.zeros((3, 3)), lambda *_: "x",
]  # fmt: skip

odd = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=2)), max_size=3),
    st.lists(st.floats(-1, 2), min_size=2, max_size=2),
    st.tuples(st.integers(-1, 4), st.integers(-1, 3)),
)


# --- what is legal -----------------------------------------------------------------------------------------------

UNKNOWN, SKIP = object(), object()
BIG = float(np.finfo(np.float64).max)


def whole(least, most=40, below=None, none=False):
    """An integer from `least` on; above `most` the call would take its time, from `below` on it is illegal."""

    def legal(value):
        if value is None:
            return none
        try:
            n = operator.index(value)
        except (TypeError, ZeroDivisionError):
            return UNKNOWN if isinstance(value, (np.ndarray, str)) else False  # "exact" of some, ids of samples
        if n < least or (below is not None and n >= below):
            return False
        return SKIP if n > most else True

    return legal


def even(value):
    legal = whole(2)(value)
    return legal if legal is not True or operator.index(value) % 2 == 0 else False


def divides(value):
    """Four particles."""
    legal = whole(1)(value)
    return legal if legal is not True else 4 % operator.index(value) == 0


def seed(none=False):
    return whole(0, 2**64, 2**64, none)


def real(low, high, none=False, ends=True):
    def legal(value):
        if value is None:
            return none
        if isinstance(value, (bool, int, float, np.number)) and not isinstance(value, np.complexfloating):
            try:
                value = float(value)
            except OverflowError:
                return False
            return low <= value <= high if ends else low < value < high
        return UNKNOWN if isinstance(value, np.ndarray) else False

    return legal


def choice(*names, none=False, more=()):
    def legal(value):
        if isinstance(value, str):
            return value in names
        return (
            none if value is None else UNKNOWN if isinstance(value, (np.ndarray, *more)) or callable(value) else False
        )

    return legal


def a_schedule(value):
    return True if value is None else UNKNOWN if isinstance(value, sf.schedule.Schedule) else False


def anything(value):
    return UNKNOWN


def flag(value):
    return isinstance(value, (bool, np.bool_))


def only(*kinds, none=False):
    """Of these types, which have parts that may be odd."""
    return lambda value: none if value is None else UNKNOWN if isinstance(value, kinds) else False


def path(value):
    return UNKNOWN if isinstance(value, str) else False


def shape(value):
    try:
        numbers = [operator.index(n) for n in value]
    except (TypeError, ZeroDivisionError):
        return False
    return SKIP if math.prod(map(abs, numbers)) > 100 else UNKNOWN


def many(value):
    return SKIP if isinstance(value, range) and len(value) > 100 else UNKNOWN


# --- the test ----------------------------------------------------------------------------------------------------

FILES = ("path", "checkpoint", "offload", "where")
ALSO = {  # what else names an argument
    "u": ("operand", "c must be", "c has"),
    "c": ("coefficients",),
    "models": ("model",),
    "model": ("models[0]", "sampling needs", "needs a schedule"),
    "other": ("models[1]",),
    "fn": ("model",),
    "conditional": ("models[0]",),
    "unconditional": ("models[1]",),
    "t_range": ("t must begin",),
    "logsnr_range": ("t_range",),
    "indices": ("iteration",),
    "times": ("is defined for",),
    "t": ("is defined for",),
    "shape": ("number of particles", "two samples"),
    "data": ("x must be",),
    "means": ("covariances",),
    "scale": ("weights",),
    "weights": ("no finite integral",),
    "reference": ("models[1]",),
    "x": ("masked array", "u[0]"),
    "rho": ("is defined for",),
    "where": ("offload",),
    "branches": ("networks",),
    "like": ("shape must be",),
    "pipelines": ("knows no prompts",),
    "prompt": ("knows no prompts",),
    "prompts": ("knows no prompts",),
    "images": ("data",),
    "pipe": ("pipeline",),
    "x0": ("u[0]",),
    "noise": ("u[",),
    "scores": ("u[",),
}


def named(argument, text):
    """Is it said of which argument the text speaks? A letter within a word is no name."""
    return bool(re.search(rf"\b{argument}\b", text)) or any(word in text for word in ALSO.get(argument, ()))


def shown(value):
    try:
        return " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return f"{hex(value)[:20]}..."


def outcome(functions, name, argument, value):
    """What is wrong with how the value is taken; None if nothing is."""
    call, arguments = functions[name]
    legal = arguments[argument](value)
    if legal is SKIP:
        return None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            call(**{argument: value})
    except (TypeError, ValueError) as error:
        if legal is True:
            return f"refuses what is legal: {error}"
        if not callable(value) and not named(argument, str(error)):
            return f"does not name it: {type(error).__name__}: {error}"
    except ZeroDivisionError:
        if not isinstance(value, Raises):
            raise
    except IndexError as error:
        return None if name == "Fit.without" or callable(value) else repr(error)
    except OSError as error:  # which names the file
        return None if argument in FILES and getattr(error, "filename", None) else repr(error)
    except Exception as error:
        if callable(value):  # its own
            return None
        return f"{type(error).__name__}: {error}"
    else:
        if legal is False:
            return "takes what is illegal"
    return None


def fuzz(functions, these=(), short=3):
    """The test of a table; `these` are odd, too; so many examples where it is short, the first of simple values."""
    values = st.one_of(st.sampled_from(these), odd) if these else odd

    @pytest.mark.parametrize("name", functions)
    @settings(
        max_examples=-(-CALLS // TOGETHER) or short,
        derandomize=not CALLS,
        phases=[Phase.generate],  # the call is told, so there is nothing to shrink
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def test(name, data):
        one = st.tuples(st.sampled_from(sorted(functions[name][1])), values)
        for argument, value in data.draw(st.lists(one, min_size=TOGETHER, max_size=TOGETHER)):
            problem = outcome(functions, name, argument, value)
            assert problem is None, f"{name}({argument}={shown(value)}) {problem}"

    return test


# --- does a table have all --------------------------------------------------------------------------------------


def public(module):
    """What takes arguments of what a module offers, by name: functions, classes that users make, methods.

    Results (tuples and dataclasses) are made by functions. Methods of an abstract class are those of all its kinds.
    """
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    found = {}
    for name, value in ((name, getattr(module, name)) for name in names):
        if not callable(value):
            continue
        if not inspect.isclass(value):
            found[name] = value
            continue
        if not (issubclass(value, tuple) or dataclasses.is_dataclass(value) or inspect.isabstract(value)):
            found[name] = value
        kinds = [name]
        if inspect.isabstract(value):
            known = [
                (n, kind) for n in names if inspect.isclass(kind := getattr(module, n)) and issubclass(kind, value)
            ]
            kinds = [n for n, kind in known if kind is not value]
        methods = {n: m for n, m in vars(value).items() if isinstance(m, (staticmethod, types.FunctionType))}
        found |= {f"{kind}.{n}": m for kind in kinds for n, m in methods.items() if not n.startswith("_")}
    taken = {name: [p for p in parameters(value) if p != "self"] for name, value in found.items()}
    return {name: arguments for name, arguments in taken.items() if arguments}


def parameters(function):
    """The names by which it is given what it takes."""
    try:
        known = inspect.signature(getattr(function, "__func__", function)).parameters.values()
    except ValueError:  # compiled
        return []
    return [p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def missing(functions, module, prefix=""):
    """What of a module no row of the table tries: functions, and arguments of functions."""
    rows = {}
    for name, (_, arguments) in functions.items():
        rows.setdefault(name.partition(",")[0].removesuffix("()"), set()).update(arguments)
    return [
        f"{prefix}{name}({argument})"
        for name, arguments in public(module).items()
        for argument in arguments
        if argument not in rows.get(f"{prefix}{name}", ())
    ]
