"""What variables a kernel has. The agent sends this module's text to run inside the kernel.

Reading must not disturb: no name is left behind, no user's `repr` or property is called, and what
a fingerprint would have to run foreign code for has none. So nothing of ours is imported here.
"""

import enum
import hashlib
import json
import pickle
import sys
import time
import types
from typing import Any, Dict, List, Optional, Set, Tuple

SECONDS = 5.0
"""That long a kernel may be kept from its next cell."""
MAX_BYTES = 256 << 20
MAX_OBJECTS = 300000
"""More than that in one variable would take too much memory to tell apart."""

CHUNK = 1 << 20
ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict])
SORTABLE = frozenset([bool, int, float, str, bytes])
# Whose pickling is known to have no side effects.
TRUSTED = frozenset(
    """_collections array builtins collections copyreg datetime dateutil decimal fractions functools ipaddress
    numpy operator pandas pathlib pickle pytz random re scipy sklearn types uuid zoneinfo""".split()  # noqa: SIM905 - read as words
)
# A class keeps these for itself.
NOISE = frozenset(
    """__dict__ __doc__ __firstlineno__ __module__ __slotnames__ __static_attributes__ __weakref__
    _abc_impl""".split()  # noqa: SIM905 - read as words
)
FOREIGN = ("__getattr__", "__getattribute__", "__reduce__", "__reduce_ex__", "__getstate__")


class Unsure(Exception):
    """The content of a variable cannot be told without a risk, or not in time."""


class Digest:
    """A file that keeps nothing of what is written but a hash."""

    def __init__(self, deadline):  # type: (float) -> None
        self.deadline = deadline
        self.count = 0
        self.hash = hashlib.blake2b(digest_size=16)

    def check(self):  # type: () -> None
        """Raise `Unsure` when it has taken too long."""
        if time.monotonic() > self.deadline:
            raise Unsure

    def write(self, data):  # type: (Any) -> int
        """Take what a pickler writes."""
        with memoryview(data) as whole, whole.cast("B") as view:
            self.count += len(view)
            if self.count > MAX_BYTES:
                raise Unsure
            for start in range(0, len(view), CHUNK):
                self.check()
                self.hash.update(view[start : start + CHUNK])
            return len(view)


class Fingerprint(pickle.Pickler):
    """Pickles into a hash; what is pickled by name otherwise goes in by what it is."""

    def __init__(self, digest):  # type: (Digest) -> None
        if sys.version_info >= (3, 8):
            super().__init__(digest, protocol=5, buffer_callback=self._buffer)
        else:
            super().__init__(digest, protocol=4)
        self.digest = digest
        self.count = 0
        self.within = set()  # type: Set[int]

    def _buffer(self, buffer):  # type: (Any) -> bool
        with buffer.raw() as view:
            self.digest.write(view)
        return False

    def persistent_id(self, value):  # type: (Any) -> Any
        """What stands for `value` in the stream; `None` for what is pickled as usual."""
        self.count += 1
        if self.count & 0x3FF == 0:
            self.digest.check()
            if self.count > MAX_OBJECTS:
                raise Unsure
        kind = type(value)  # isinstance() would ask the value, too
        if kind in ATOMS:
            return None
        if kind in (set, frozenset):
            # Their order depends on the process.
            if len({type(each) for each in value}) == 1 and type(next(iter(value))) in SORTABLE:
                return (kind.__name__, sorted(value))
            return None
        if issubclass(kind, type):
            return self._class(value)
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.ModuleType:
            return ("module", value.__name__)
        if kind is types.BuiltinFunctionType:
            owner = value.__self__
            if owner is None or isinstance(owner, (types.ModuleType, type)):
                return ("builtin", getattr(owner, "__name__", ""), value.__qualname__)
            raise Unsure
        if kind in (property, classmethod, staticmethod):
            inside = [getattr(value, name, None) for name in ("fget", "fset", "fdel", "__func__")]
            return (kind.__name__, inside)
        if issubclass(kind, enum.Enum):
            return ("enum", kind.__module__, kind.__qualname__, value._name_)
        if root(kind) not in TRUSTED:
            vet(kind)
        return None

    def _function(self, value):  # type: (Any) -> Any
        if value.__module__ != "__main__":
            return ("function", value.__module__, value.__qualname__)
        if id(value) in self.within:
            return ("function", value.__qualname__)
        self.within.add(id(value))
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = (value.__defaults__, value.__kwdefaults__)
        return ("function", value.__qualname__, code_of(value.__code__), defaults, cells)

    def _class(self, value):  # type: (Any) -> Any
        if value.__module__ != "__main__" or id(value) in self.within:
            return ("class", value.__module__, value.__qualname__)
        self.within.add(id(value))
        inside = [(name, each) for name, each in vars(value).items() if name not in NOISE]
        inside = [(name, each) for name, each in inside if type(each) not in SLOTS]
        return ("class", value.__qualname__, value.__bases__, sorted(inside, key=lambda item: item[0]))


SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def code_of(code):  # type: (Any) -> Tuple[Any, ...]
    """What a function does, wherever it was written down."""
    inside = [code_of(each) if isinstance(each, types.CodeType) else each for each in code.co_consts]
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, inside)


def root(kind):  # type: (type) -> str
    """The package that a class comes from."""
    return str(kind.__module__).partition(".")[0]


def vet(kind):  # type: (type) -> None
    """Raise `Unsure` where pickling instances of a class would run code of its own."""
    for base in kind.__mro__[:-1]:
        if root(base) not in TRUSTED and not set(FOREIGN).isdisjoint(vars(base)):
            raise Unsure
    if kind.__flags__ & (1 << 9) == 0:  # not made by a class statement: an extension's
        raise Unsure


def size_of(value):  # type: (Any) -> int
    """About how many bytes a value takes, without what it refers to, but with an array's or frame's data."""
    family = root(type(value))
    if family == "pandas" and hasattr(type(value), "memory_usage"):
        usage = value.memory_usage(deep=False)
        return int(usage.sum() if hasattr(usage, "sum") else usage)
    if family == "polars" and hasattr(type(value), "estimated_size"):
        return int(value.estimated_size())
    if family in ("numpy", "torch", "xarray", "pyarrow") and hasattr(type(value), "nbytes"):
        return int(value.nbytes)
    return sys.getsizeof(value, 0)


def fingerprint(value, size, deadline):  # type: (Any, int, float) -> Optional[str]
    """A hash of a value's content, equal for equal content; `None` where that cannot be told."""
    if size > MAX_BYTES:
        return None
    digest = Digest(deadline)
    try:
        digest.check()
        Fingerprint(digest).dump(value)
    except Exception:  # noqa: BLE001 - whatever it is that cannot be pickled
        return None
    return digest.hash.hexdigest()


def type_name(value):  # type: (Any) -> str
    """The name of a value's class as people write it."""
    kind = type(value)
    name = kind.__qualname__
    return name if kind.__module__ in ("builtins", "__main__") else "{}.{}".format(kind.__module__, name)


def variables(namespace, hidden=None, seconds=SECONDS):
    # type: (Dict[str, Any], Optional[Dict[str, Any]], float) -> Dict[str, List[Any]]
    """The variables that ``%who`` shows: to each name its type, size in bytes and fingerprint or `None`.

    Small ones come first to a fingerprint; after `seconds` the others get none.
    """
    deadline = time.monotonic() + seconds
    hidden = {} if hidden is None else hidden
    found = []
    for name, value in [item for item in list(namespace.items()) if type(item[0]) is str]:
        if name.startswith("_") or (name in hidden and hidden[name] is value):
            continue
        try:
            found.append((size_of(value), name, type_name(value)))
        except Exception:  # noqa: BLE001 - a class that raises when it is asked for anything
            found.append((0, name, "?"))
    result = {}  # type: Dict[str, List[Any]]
    for size, name, kind in sorted(found):
        if name in namespace:
            result[name] = [kind, size, fingerprint(namespace[name], size, deadline)]
    return result


class Report(object):
    """The variables of a namespace, for a formatter that prints objects by their `repr`."""

    def __init__(self, namespace):  # type: (Dict[str, Any]) -> None
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        hidden = getattr(shell, "user_ns_hidden", None)
        self.text = json.dumps(variables(namespace, hidden))

    def __repr__(self):  # type: () -> str
        return self.text
