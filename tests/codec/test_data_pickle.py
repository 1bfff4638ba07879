"""The serializer of data against forged pickles: whatever bytes say, nothing runs, and nothing grows without bound."""

from __future__ import annotations

import copyreg
import enum
import functools
import pickle
import random
import subprocess
import sys
import time
import types
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import apsw
import numpy as np
import pytest

from rstore import (
    CorruptionError,
    DataPickle,
    InvalidTypeError,
    InvalidValueError,
    SerializationError,
    Store,
    StoreError,
)
from rstore.codec.blueprints import known_zones
from rstore.codec.serializers import Codec

PROTO: Final = b"\x80\x05"
events: list[str] = []
"""Everything that ran while a pickle was loaded: methods of the classes below, and audited calls of Python."""


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes((len(raw),)) + raw if len(raw) < 256 else b"X" + len(raw).to_bytes(4, "little") + raw


def _named(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _spied(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    events.append("a method of an allowed class")
    return None


class _Descriptor:
    """A property that is no field, set by pickles that speak of slots."""

    def __get__(self, one: Any, owner: Any = None) -> Any:
        return self if one is None else _spied()

    def __set__(self, one: Any, value: Any) -> None:
        _spied()


@dataclass(eq=False)
class Spy:
    """Says whenever a method of it is called."""

    x: Any

    def __post_init__(self) -> None:
        _spied()

    def __new__(cls, *_: Any) -> Self:
        _spied()
        return super().__new__(cls)

    side = _Descriptor()
    __call__ = __setattr__ = __setitem__ = __contains__ = __iter__ = __len__ = _spied
    append = extend = add = update = __iadd__ = __getattr__ = __bool__ = __format__ = _spied


class Sly(enum.Enum):
    """An enum that says when it is asked for a member that there is none of."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return _spied(value)

    def add(self, item: Any) -> None:
        _spied(item)

    def append(self, item: Any) -> None:
        _spied(item)

    def __call__(self, item: Any) -> None:
        _spied(item)


class Pair(NamedTuple):
    """A named tuple."""

    a: Any
    b: Any


DATA: Final = DataPickle(allow=[Spy, Sly, Pair])
load: Final = functools.partial(Codec(DATA).load, DATA.codec)
SPY, SLY, PAIR = (_named(__name__, kind.__name__) for kind in (Spy, Sly, Pair))

_AUDITED: Final = ("import", "compile", "exec", "open", "os.", "subprocess.", "socket.", "ctypes.", "code.__new__")
_watching = False


def _audit(event: str, _: Any) -> None:
    if _watching and event.startswith(_AUDITED):
        events.append(event)


sys.addaudithook(_audit)
known_zones()  # looks into a folder, once


@contextmanager
def _nothing_runs() -> Generator[None, None, None]:
    global _watching  # noqa: PLW0603 - an audit hook cannot be removed
    events.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert events == []


# Names with which published exploits of pickle, and of programs that scan pickles, begin.
GLOBALS: Final = """
os.system posix.system nt.system os.popen os.execv os.spawnlp os.remove posix.open pty.spawn subprocess.Popen
subprocess.check_output subprocess.getoutput commands.getoutput builtins.eval builtins.exec builtins.compile
builtins.__import__ builtins.open builtins.input builtins.breakpoint builtins.getattr builtins.setattr
builtins.delattr builtins.globals builtins.vars builtins.map builtins.filter builtins.type builtins.object
builtins.super builtins.memoryview builtins.iter builtins.sum builtins.print __builtin__.eval __builtin__.apply
__main__.anything importlib.import_module importlib.reload importlib.util.find_spec pkgutil.resolve_name
pkgutil.get_data operator.attrgetter operator.methodcaller operator.itemgetter _operator.attrgetter operator.pow
operator.mul functools.partial functools.reduce itertools.repeat types.FunctionType types.CodeType types.MethodType
runpy._run_code runpy.run_path timeit.timeit timeit.main pdb.run pdb.Pdb bdb.Bdb.run cProfile.run
profile.Profile.run trace.Trace.run doctest.debug_script code.interact code.InteractiveInterpreter
codeop.compile_command pip.main pip._internal.main venv.create ensurepip.bootstrap marshal.loads pickle.loads
_pickle.loads pickle.Unpickler shelve.open dill.loads cloudpickle.loads joblib.load torch.load
copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__ copyreg.add_extension copyreg.pickle _codecs.encode
ctypes.CDLL ctypes.cast cffi.FFI mmap.mmap socket.socket socket.create_connection ssl.SSLContext
urllib.request.urlopen http.client.HTTPConnection smtplib.SMTP ftplib.FTP webbrowser.open requests.get
aiohttp.request shutil.rmtree shutil.copyfile tempfile.mkstemp pathlib.Path io.open _io.FileIO
distutils.file_util.write_file asyncio.create_subprocess_shell asyncio.unix_events._UnixSubprocessTransport
multiprocessing.Process threading.Thread logging.config.dictConfig unittest.mock.Mock unittest.main
idlelib.pyshell.main lib2to3.main numpy.load numpy.fromfile numpy.memmap numpy.f2py.crackfortran.getlincoef
numpy.testing._private.utils.runstring numpy.core.multiarray.fromfile numpy._core.multiarray.frombuffer
numpy.distutils.exec_command numpy.vectorize numpy._core._internal.sys numpy.__builtins__ pandas.read_pickle
pandas.eval datetime.datetime.now datetime.sys decimal.sys decimal.Decimal.from_float uuid.os uuid.os.system
uuid.uuid1 fractions.operator.attrgetter collections.namedtuple collections._sys collections.UserDict
zoneinfo.ZoneInfo.from_file zoneinfo.ZoneInfo.clear_cache zoneinfo.reset_tzpath zoneinfo._common.load_data
string.Formatter sys.modules sys.exit signal.signal atexit.register gc.get_objects inspect.getattr_static
rstore.Store rstore.store.Store rstore.codec.blueprints.build rstore.codec.data_pickle.DataPickle
rstore.codec.blueprints._zone_method antigravity.fly this.s
""".split()  # noqa: SIM905 - a name a line would fill pages


def _calls(module: str, name: str) -> dict[str, bytes]:
    """Return pickles that call a global, each in another way."""
    found, argument, text = _named(module, name), _text("print(1)"), f"{module}\n{name}\n".encode()
    return {
        "REDUCE": PROTO + found + argument + b"\x85R.",
        "NEWOBJ": PROTO + found + argument + b"\x85\x81.",
        "NEWOBJ_EX": PROTO + found + argument + b"\x85}\x92.",
        "GLOBAL": PROTO + b"c" + text + argument + b"\x85R.",
        "OBJ": PROTO + b"(" + found + argument + b"o.",
        "INST": PROTO + b"(" + argument + b"i" + text + b".",
        "protocol 0": b"c" + text + b"(S'print(1)'\ntR.",
        "as the factory": PROTO + _named("collections", "defaultdict") + found + b"\x85R.",
        "as a state": PROTO + SPY + b")\x81}" + _text("__setstate__") + found + b"sb" + argument + b"b.",
        "named alone": PROTO + found + b".",
    }


@pytest.mark.parametrize("path", GLOBALS)
def test_no_global_is_called(path: str) -> None:
    module, _, name = path.rpartition(".")
    # The dot may be on either side: module `uuid`, name `os.system`.
    for split in {(module, name), tuple(path.split(".", 1))}:
        for way, body in _calls(*split).items():
            with _nothing_runs(), pytest.raises(StoreError):
                assert load(body) is None, way


EVERY_GLOBAL: Final = [
    (module, name)
    for module, name in [
        ("datetime", "datetime"), ("datetime", "date"), ("datetime", "time"), ("datetime", "timedelta"),
        ("datetime", "timezone"), ("decimal", "Decimal"), ("builtins", "complex"), ("builtins", "getattr"),
        ("zoneinfo", "ZoneInfo"), ("fractions", "Fraction"), ("builtins", "range"), ("uuid", "UUID"),
        ("collections", "deque"), ("collections", "OrderedDict"), ("collections", "defaultdict"),
        ("collections", "Counter"), ("numpy", "dtype"), ("numpy", "ndarray"), ("builtins", "list"),
        ("builtins", "bytearray"), ("numpy._core.numeric", "_frombuffer"), ("numpy._core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"), (__name__, "Spy"), (__name__, "Sly"), (__name__, "Pair"),
    ]
]  # fmt: skip
_HUGE: Final = b"\x8a\x08" + (10**15).to_bytes(8, "little")
_RANGE: Final = _named("builtins", "range") + b"K\x00" + _HUGE + b"K\x01\x87R"


def _doubled(make: bytes, kind: bytes = b"") -> bytes:
    """Return the opcodes of a pair of two pairs that are one, and so on: 60 of them."""
    return b"N\x94" + b"".join(kind + bytes((0x68, i, 0x68, i)) + make for i in range(60))


def _tricks() -> dict[str, bytes]:
    spy = SPY + b")\x81"
    first = spy + b"}" + _text("x") + b"K\x01sb"
    arrays = _named("numpy._core.numeric", "_frombuffer")
    dtype = _named("numpy", "dtype")
    scalar = _named("numpy._core.multiarray", "scalar")
    reconstruct = (
        _named("numpy._core.multiarray", "_reconstruct") + _named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    )
    get = _named("builtins", "getattr")
    tricks = {
        "an instance is called": first + b"K\x01\x85R",
        "an instance is appended to": first + b"(K\x01K\x02e",
        "an instance gets one item": first + b"K\x01a",
        "an instance gets a key": first + b"K\x01K\x02s",
        "an instance gets keys": first + b"(K\x01K\x02u",
        "an instance is added to": first + b"(K\x01\x90",
        "two states": first + b"}" + _text("x") + b"K\x02sb",
        "a slot that is a property": spy + b"N}" + _text("side") + b"K\x01s\x86b",
        "an attribute that hides a method": spy + b"}" + _text("append") + b"K\x01sb",
        "an attribute with two underscores": spy + b"}" + _text("__class__") + b"K\x01sb",
        "a state of another type": spy + b"K\x05b",
        "a name that is no str": spy + b"}K\x01K\x02sb",
        "arguments for a dataclass": SPY + b"K\x01\x85R",
        "an enum without that member": SLY + b"K\x07\x85R",
        "an enum made anew": SLY + _text("New") + _text("a b") + b"\x86R",
        "a member is called": SLY + b"K\x01\x85RK\x01\x85R",
        "a member is added to": SLY + b"K\x01\x85R(K\x01\x90",
        "a named tuple of three": PAIR + b"K\x01K\x02K\x03\x87\x81",
        "getattr of a class": get + _named("datetime", "datetime") + _text("now") + b"\x86R)R",
        "getattr of an array function": get + arrays + _text("__globals__") + b"\x86R",
        "getattr of getattr": get + get + _text("__globals__") + b"\x86R",
        "getattr of an instance": get + first + _text("append") + b"\x86R",
        "a time zone outside of its folder": _named("zoneinfo", "ZoneInfo") + _text("../../../etc/passwd") + b"\x85R",
        "an absolute time zone": _named("zoneinfo", "ZoneInfo") + _text("/etc/passwd") + b"\x85R",
        "a factory that is no builtin type": _named("collections", "defaultdict")
        + _named("decimal", "Decimal") + b"\x85R",
        "a factory that is an instance": _named("collections", "defaultdict") + first + b"\x85R",
        "a deque of a range": _named("collections", "deque") + _RANGE + b"\x85R",
        "a Counter of a range": _named("collections", "Counter") + _RANGE + b"\x85R",
        "a list of a range": _named("builtins", "list") + _RANGE + b"\x85R",
        "an OrderedDict of a range": _named("collections", "OrderedDict") + _RANGE + b"\x85R",
        "a bytearray of a size": _named("builtins", "bytearray") + _HUGE + b"\x85R",
        "a Decimal of a range": _named("decimal", "Decimal") + _RANGE + b"\x85R",
        "a Fraction with an exponent": _named("fractions", "Fraction") + _text("1e999999999") + b"\x85R",
        "a Fraction of large numbers": _named("fractions", "Fraction")
        + 2 * (b"\x8b" + (200_000).to_bytes(4, "little") + b"\x55" * 200_000)
        + b"\x86R",
        "a UUID with another number": _named("uuid", "UUID") + b")\x81}" + _text("int") + b"]sb",
        "a UUID with a name": _named("uuid", "UUID") + b")\x81}" + _text("hex") + b"K\x01sb",
        "a dtype of objects": dtype + _text("O") + b"\x89\x88\x87R",
        "a scalar of objects": scalar + dtype + _text("O8") + b"\x89\x88\x87RC\x08aaaaaaaa\x86R",
        "a dtype that is evaluated": dtype + _text("i4,(1000000,1000000)f8") + b"\x89\x88\x87R",
        "an array of a dtype that holds objects": arrays
        + b"C\x08aaaaaaaa" + dtype + _text("V8") + b"\x89\x88\x87R(K\x03" + _text("|") + b"N" + _text("a") + b"\x85}"
        + _text("a") + dtype + _text("O8") + b"\x89\x88\x87RK\x00\x86sK\x08K\x01K\x10tb(K\x01\x85" + _text("C") + b"tR",
        "an array larger than its bytes": arrays + b"C\x08aaaaaaaa(" + dtype + _text("f8") + b"\x89\x88\x87R(" + _HUGE
        + b"t" + _text("C") + b"tR",
        "an array without bytes": reconstruct + b"(K\x01(" + _HUGE + b"t" + dtype + _text("f8")
        + b"\x89\x88\x87R\x89C\x00tb",
        "an array with a list": reconstruct + b"(K\x01(K\x01t" + dtype + _text("f8") + b"\x89\x88\x87R\x89]tb",
        "an array that is an instance": reconstruct + first + b"b",
        "a registered extension code": b"\x82\x01",
        "a larger extension code": b"\x83\x01\x00",
        "the largest extension code": b"\x84\x01\x00\x00\x00",
        "a persistent id": _text("os") + b"Q",
        "a persistent id in text": b"Pos\n",
        "a buffer from outside": b"\x97",
        "a memo of 8 GiB": b"Nr\x00\x00\x00\x20",
        "a memo of text": b"Np999999999\n",
        "a memo of a byte": b"Nq\xff",
        "bytes of 8 EiB": b"\x8e" + b"\xff" * 7 + b"\x7f",
        "a bytearray of 16 GiB": b"\x96" + (2**34).to_bytes(8, "little"),
        "a str of 4 GiB": b"X\xff\xff\xff\xff",
        "an int of 2 GiB": b"\x8b\xff\xff\xff\x7f",
        "a negative length": b"\x8b\xff\xff\xff\xff",
        "a tuple that is too deep to be hashed": b"})" + b"\x85" * 400_000 + b"Ns",
        "a tuple that is too deep, out of a memo": b"})" + b"\x85\x940h\x00" * 3 + b"\x85" * 400_000 + b"Ns",
        "a frozenset of a deep tuple": b"(N" + b"N\x86" * 400_000 + b"\x91",
        "an attribute of getattr": get + b"N}" + _text("x") + b"K\x01s\x86b",
        "the defaults of a function": _named("zoneinfo", "ZoneInfo") + b"N}" + _text("__defaults__") + b")s\x86b",
        "the attributes of a function": get + b"}" + _text("x") + b"K\x01sb",
        "an attribute of a class": _named("decimal", "Decimal") + b"N}" + _text("x") + b"K\x01s\x86b",
        "an object that is its own state": PAIR + b"NN\x86\x81\x94h\x00b",
        "an object in its own state": PAIR + b"NN\x86\x81\x94h\x00\x85b",
        "a key whose hash takes for ever": _doubled(b"\x86\x94") + b"}h\x3cNs",
        "an item whose hash takes for ever": b"\x8f(" + _doubled(b"\x86\x94") + b"\x90",
        "a frozenset whose hash takes for ever": b"(" + _doubled(b"\x86\x94") + b"\x91",
        "a key whose hash takes for ever, behind a long text": b"X\x00\x01\x00\x00" + b"a" * 256 + b"0"
        + _doubled(b"\x86\x94") + b"}(h\x3cNu",
        "a key of named tuples whose hash takes for ever": _doubled(b"\x86\x81\x94", PAIR) + b"}h\x3cNs",
        "an OrderedDict with a key whose hash takes for ever": _named("collections", "OrderedDict") + b")R"
        + _doubled(b"\x86\x81\x94", PAIR) + b"Ns",
        "a Decimal of a large int": _named("decimal", "Decimal") + b"\x8b" + (200_000).to_bytes(4, "little")
        + b"\x55" * 200_000 + b"\x85R",
        "a stack that is empty": b"0R",
        "a mark that is not there": b"t",
        "a memo that is not there": b"hX",
        "a key without a hash": b"}](N" + b"tNs",
        "nothing": b"",
        "text": b"V1\n",
        "an int in text": b"I1\n",
        "dup": b"N2",
        "a second end": b"N.N",
    }  # fmt: skip
    return {name: PROTO + body + b"." for name, body in tricks.items()}


TRICKS: Final = _tricks()


@pytest.fixture
def registered() -> Generator[None, None, None]:
    """Register an extension code for what is not allowed, and have pickle cache it."""
    copyreg.add_extension("rstore_testing", "unheard_of", 1)
    module = types.ModuleType("rstore_testing")
    vars(module)["unheard_of"] = _spied
    sys.modules["rstore_testing"] = module
    try:
        assert pickle.loads(PROTO + b"\x82\x01.") is _spied  # noqa: S301 - it is built here
        yield
    finally:
        copyreg.remove_extension("rstore_testing", "unheard_of", 1)
        del sys.modules["rstore_testing"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_runs_nothing_and_is_refused(name: str) -> None:
    with _nothing_runs(), pytest.raises(StoreError):
        load(TRICKS[name])


@pytest.mark.parametrize("name", ["an instance is called", "getattr of an instance", "a memo of 8 GiB"])
def test_a_large_pickle_is_looked_at_as_a_small_one(name: str) -> None:
    padding = b"X" + (2**22).to_bytes(4, "little") + b"a" * 2**22 + b"0"
    for body in (TRICKS[name], PROTO + _named("os", "getcwd") + b")R."):
        large = body[:2] + padding + body[2:]
        for given in (large, memoryview(large)):
            with _nothing_runs(), pytest.raises(StoreError):
                load(given)


def test_what_is_shared_is_looked_at_once() -> None:
    wide = b"(" + b"N" * 30_000 + b"t\x94](" + b"h\x00" * 30_000 + b"e" + PAIR + b"NN\x86\x81\x87."
    start = time.process_time()
    shared, many, pair = load(PROTO + wide)
    assert time.process_time() - start < 5
    assert len(many) == len(shared) == 30_000
    assert many[0] is many[-1] is shared
    assert pair == (None, None)


@pytest.mark.parametrize("name", ["S0", "U0", "V0"])
def test_an_array_of_no_bytes_takes_none(name: str) -> None:
    dtype = _named("numpy", "dtype") + _text(name) + b"\x89\x88\x87R"
    body = _named("numpy._core.numeric", "_frombuffer") + b"(C\x00" + dtype + 2 * b"J\xff\xff\xff\x7f" + b"\x86"
    array = load(PROTO + body + _text("C") + b"tR.")
    assert (array.nbytes, array.shape) == (0, (2**31 - 1, 2**31 - 1))


def test_keys_that_share_their_parts_come_back() -> None:
    row = tuple(range(1_000))
    for value in ({(row, (row, i)): i for i in range(500)}, {Pair(row, Pair(row, i)) for i in range(500)}):
        assert load(DATA.dumps(value)) == value


def test_there_are_tricks_enough() -> None:
    assert len(TRICKS) >= 50
    assert len(GLOBALS) >= 100


@pytest.mark.parametrize("callee", EVERY_GLOBAL, ids=".".join)
def test_whatever_the_known_globals_are_called_with_runs_nothing(callee: tuple[str, str]) -> None:
    arguments = [
        b"N",
        b"K\x05",
        _HUGE,
        _text("1e999999999"),
        _text("os.system"),
        _RANGE,
        b"]",
        b"}",
        b")",
        b"C\x08aaaaaaaa",
    ]
    arguments += [_named(*found) for found in EVERY_GLOBAL]
    for one in arguments:
        for other in arguments[:8]:
            for call in (b"\x85R", b"\x85\x81", b"\x85R" + other + b"b", b"\x85R(" + other + other + b"u"):
                body = PROTO + _named(*callee) + one + call + b"."
                with _nothing_runs(), suppress(StoreError):
                    load(body)


def test_flipped_and_spliced_pickles_run_nothing() -> None:
    chance = random.Random(7)
    seeds = [*TRICKS.values()]
    seeds = [seed for seed in seeds if len(seed) < 1000]
    seeds += [DATA.dumps(value) for value in ([1, {"a": (2.5, "x")}], np.arange(3), Pair(1, {Sly.ONE: [Pair(2, 3)]}))]
    refused = loaded = 0
    with _nothing_runs():
        for _ in range(30_000):
            body = bytearray(chance.choice(seeds))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(body))
                if chance.random() < 0.3:
                    other = chance.choice(seeds)
                    cut = chance.randrange(len(other))
                    body[at:at] = other[cut : cut + chance.randint(1, 20)]
                else:
                    body[at] = (
                        chance.choice(b"\x85\x86\x87()R\x81b\x93\x94h.se]}K\x8c\x01\x00")
                        if chance.random() < 0.5
                        else (body[at] ^ (1 << chance.randrange(8)))
                    )
            try:
                load(bytes(body))
                loaded += 1
            except StoreError:
                refused += 1
    assert refused > 1_000
    assert loaded > 100


@pytest.mark.slow
def test_no_trick_takes_much_memory() -> None:
    """All of them, in a process that may have 1 GiB: what allocates more dies with a MemoryError there."""
    program = (
        "import resource, sys; sys.path[:0] = sys.argv[1:]; import test_data_pickle as tests\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name, body in tests.TRICKS.items():\n"
        "    try: tests.load(body)\n"
        "    except MemoryError: print('a raw MemoryError:', name)\n"
        "    except Exception: pass\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(grown >> 10, 'MiB')\n"
    )
    folder = str(__import__("pathlib").Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(run.stdout.removesuffix(" MiB\n")) <= 64


@pytest.mark.slow
def test_a_forged_pickle_in_a_store_is_typed_and_checked(tmp_path: Any) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store:
        store["k"] = [1]
    for name, body in TRICKS.items():
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE records SET record = ?", (b"\x01" + b"stampsta" + body,))
        connection.close()
        with Store(path, serializer="data") as store:
            with pytest.raises((SerializationError, CorruptionError), match="'k' in namespace 'default'"):
                store["k"]
            assert [finding.key for finding in store.check()] == ["k"], name


def test_only_classes_that_run_nothing_can_be_allowed() -> None:
    class Plain:
        pass

    @dataclass
    class Reducing:
        x: int

        def __reduce__(self) -> Any:
            raise AssertionError

    @dataclass
    class Closing:
        x: int

        def __del__(self) -> None:
            pass

    for kind in (Plain, Reducing, Closing, int, dict, Exception):
        with pytest.raises(InvalidValueError, match=kind.__name__):
            DataPickle(allow=[kind])
    for wrong in ("Point", Sly.ONE, None):
        with pytest.raises(InvalidTypeError):
            DataPickle(allow=[wrong])  # type: ignore[list-item]
    with pytest.raises(InvalidValueError, match="call it"):
        Store("memory://", serializer=DataPickle)  # type: ignore[arg-type]


def test_a_class_with_another_way_to_be_pickled_is_refused() -> None:
    copyreg.pickle(Pair, lambda pair: (list, (tuple(pair),)))  # type: ignore[arg-type, return-value]
    try:
        with pytest.raises(SerializationError, match="copyreg"):
            DATA.dumps(Pair(1, 2))
    finally:
        del copyreg.dispatch_table[Pair]
    copyreg.add_extension(__name__, "Pair", 77)
    try:
        with pytest.raises(StoreError):
            DATA.dumps(Pair(1, 2))
    finally:
        copyreg.remove_extension(__name__, "Pair", 77)
    assert load(DATA.dumps(Pair(1, 2))) == Pair(1, 2)
