"""Pickles as data: a reader that can build values but cannot call, import or look up anything,
and a small writer.

A pickle is a program for a stack machine. The standard machine may call any function of any module;
this one knows the instructions that build numbers, text, lists and dicts, and where a pickle asks for a
function, takes a substitute of our own from a table or stops. The bytes of the file are all it can ask for:
every size is checked against them.
"""
import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from torch_utils.checkpoint import CheckpointError

MAX_TEXT = 100          # Characters of a file's own words that an error message repeats.
MAX_INSTRUCTIONS = 2_000_000    # Real files have some 100 000.
MAX_LINE = 1000         # Bytes of the name of a function or class.
MAX_INT = 1 << 127      # Of absolute values; the largest in real files is the magic number of torch, 80 bits.


class Buildable:
    """Base of substitutes that pickles create empty (`NEWOBJ`) or fill later (`BUILD`)."""

    def build(self, state: Any) -> None:
        """Takes the state that the pickle gives the object."""
        raise CheckpointError(f'refused: the file sets the state of a {type(self).__name__}')


class Table(dict, Buildable):
    """A dict of a class of its own: an OrderedDict, an EasyDict.
    Attributes that the file gives it are forgotten.

    (The `state_dict()` of a module has one, `_metadata`.)
    """

    def build(self, state: Any) -> None:
        """Forgets them."""


class UnknownName(CheckpointError):
    """The file asks for a function or class that has no substitute."""

    def __init__(self, module: Any, name: Any):
        super().__init__(f'refused: the file asks for {shorten(module)}.{shorten(name)}, which no network file needs; '
                         'nothing was executed')
        self.module = shorten(module)


@dataclass(frozen=True)
class Global:
    """A function or class by the name that a pickle has for it. Just the name: nothing is looked up."""
    module: str
    name: str


Substitute = Callable[..., Any]
# (module, name) as the file spells it -> what is called instead.
Substitutes = dict[tuple[str, str], Substitute]

_MARK = object()


class _Bounded:
    """A file that refuses requests for more bytes than it has, before memory is taken for them."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.left = size_of(file)

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > self.left:
            raise CheckpointError('truncated: the pickle declares more than the file holds')
        self.left -= num_bytes
        return self.file.read(num_bytes)

    def readline(self) -> bytes:
        line = self.file.readline(min(self.left, MAX_LINE))
        self.left -= len(line)
        return line


def size_of(file: BinaryIO) -> int:
    """Bytes from the position of `file` to its end."""
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end - here


class _Machine:
    """Runs one pickle."""

    def __init__(self, file: BinaryIO, substitutes: Substitutes,
                 persistent_load: Callable[[Any], Any] | None):
        self.file = _Bounded(file)
        self.substitutes = substitutes
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            for _ in range(MAX_INSTRUCTIONS):
                if self.file.left == 0:
                    raise CheckpointError('truncated: the pickle has no end')
                code = self.file.read(1)
                if code == b'.':
                    return self.stack.pop()
                if code not in _INSTRUCTIONS:
                    raise CheckpointError(f'refused: the pickle uses instruction {code!r}, which no network file needs')
                read_argument, execute = _INSTRUCTIONS[code]
                execute(self, read_argument(self.file))
            raise CheckpointError(f'refused: the pickle has more than {MAX_INSTRUCTIONS} instructions')
        except CheckpointError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError,
                MemoryError) as error:
            raise CheckpointError(f'damaged, or no pickle: {shorten(error)}') from error

    def above_mark(self) -> list[Any]:
        """Takes everything above the topmost mark, and the mark, off the stack."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise ValueError('no mark on the stack')
        items = self.stack[position + 1:]
        del self.stack[position:]
        return items

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f'a {type(self.stack[-1]).__name__} where a {kind.__name__} must be')
        return self.stack[-1]

    # Structure.

    def op_MARK(self, _):
        self.stack.append(_MARK)

    def op_MEMOIZE(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def op_BINPUT(self, index):
        self.memo[index] = self.stack[-1]

    op_LONG_BINPUT = op_BINPUT

    def op_BINGET(self, index):
        self.stack.append(self.memo[index])

    op_LONG_BINGET = op_BINGET

    # Containers.

    def op_TUPLE(self, _):
        items = self.above_mark()
        self.stack.append(tuple(items))

    def take(self, count):
        items = [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def op_TUPLE1(self, _):
        self.take(1)

    def op_TUPLE2(self, _):
        self.take(2)

    def op_TUPLE3(self, _):
        self.take(3)

    def op_APPEND(self, _):
        item = self.stack.pop()
        self.top(list).append(item)

    def op_APPENDS(self, _):
        items = self.above_mark()
        self.top(list).extend(items)

    def op_SETITEM(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_item(key, value)

    def op_SETITEMS(self, _):
        items = self.above_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set_item(key, value)

    def set_item(self, key, value):
        if type(key) not in (str, int):
            raise CheckpointError(f'refused: a dict with a key of type {type(key).__name__}')
        self.top(dict)[key] = value

    def op_ADDITEMS(self, _):
        self.above_mark()           # Sets: no network file has one that is not empty, and nothing needs them.

    # Calls.

    def op_GLOBAL(self, name):
        self.push_global(*name.split(' ', 1))

    def op_STACK_GLOBAL(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def push_global(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.substitutes:
            raise UnknownName(module, name)
        self.stack.append(Global(module, name))

    def op_REDUCE(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise CheckpointError('refused: the file calls something that is not a known function')
        self.stack.append(self.substitutes[function.module, function.name](*arguments))

    op_NEWOBJ = op_REDUCE

    def op_BUILD(self, _):
        state = self.stack.pop()
        self.top(Buildable).build(state)

    def op_BINPERSID(self, _):
        if self.persistent_load is None:
            raise CheckpointError('refused: the file refers to something outside of itself')
        self.stack.append(self.persistent_load(self.stack.pop()))


def _small(number: int) -> int:
    """The number, if it is one that a network file may need."""
    if abs(number) >= MAX_INT:
        raise CheckpointError('refused: the pickle has a whole number of more than 127 bits')
    return number


def _literal(value_of: Callable[[Any], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(value_of(argument))


def _instructions() -> dict[bytes, tuple[Callable, Callable]]:
    """{byte: (reads the argument from a file, executes)} of all instructions that the machine knows."""
    execute = {name.removeprefix('op_'): method for name, method in vars(_Machine).items()
               if name.startswith('op_')}
    execute.update(dict.fromkeys(['PROTO', 'FRAME'], lambda machine, _: None))
    constants = {'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
                 'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_SET': tuple}
    for name, make in constants.items():
        execute[name] = _literal(lambda _, make=make: make())
    for name in ('LONG1', 'LONG4'):
        execute[name] = _literal(_small)
    for name in ('BININT', 'BININT1', 'BININT2', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE',
                 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'):
        execute[name] = _literal(lambda argument: argument)
    return {op.code.encode('latin1'): (op.arg.reader if op.arg else lambda _: None, execute[op.name])
            for op in pickletools.opcodes if op.name in execute}


_INSTRUCTIONS = _instructions()


def load(file: BinaryIO, substitutes: Substitutes,
         persistent_load: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle that begins at the position of `file` (protocols 2 to 5),
    which is left behind it.

    substitutes: what stands for each function or class that the pickle may name;
    it is given the pickle's arguments. persistent_load: what stands for a reference out of the pickle, given
    its id. None = there are none.

    Sets become (). Raises CheckpointError, one sentence, for whatever else the pickle tries.
    """
    return _Machine(file, substitutes, persistent_load).run()


def shorten(value: Any) -> str:
    text = str(value) if isinstance(value, (str, Exception)) else type(value).__name__
    text = ' '.join(text.split())
    return text if len(text) <= MAX_TEXT else f'{text[:MAX_TEXT]}...'


# ---------------------------------------------------------------------------------------------------------------------
# Writing.

class Call:
    """A call to be written: the file asks its reader to call `function` with `arguments`."""

    def __init__(self, function: Global, *arguments: Any):
        self.function = function
        self.arguments = arguments


class TypedDict(dict):
    """A dict to be written as one of the class `kind`."""

    def __init__(self, kind: Global, content: dict):
        super().__init__(content)
        self.kind = kind


class Reference:
    """A reference out of the pickle to be written, by id."""

    def __init__(self, id: Any):
        self.id = id


def dumps(value: Any, protocol: int = 3) -> bytes:
    """A pickle of plain data (None, bool, int, float, str, bytes, tuple, list, dict), `TypedDict`s,
    `Call`s and `Reference`s.

    Equal strings are written once. Only instructions of protocol 2,
    and of protocol 3 where there are `bytes`.
    """
    out = io.BytesIO()
    out.write(b'\x80' + bytes([protocol]))
    _write(out, value, {})
    out.write(b'.')
    return out.getvalue()


def _write(out: BinaryIO, value: Any, memo: dict[str, int]) -> None:
    kind = type(value)
    if value is None:
        out.write(b'N')
    elif kind is bool:
        out.write(b'\x88' if value else b'\x89')
    elif kind is int:
        data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
        out.write(b'\x8a' + bytes([len(data)]) + data)
    elif kind is float:
        out.write(b'G' + struct.pack('>d', value))
    elif kind is str and value in memo:
        out.write(b'j' + struct.pack('<I', memo[value]))
    elif kind is str:
        data = value.encode()
        memo[value] = len(memo)
        out.write(b'X' + struct.pack('<I', len(data)) + data + b'r' + struct.pack('<I', memo[value]))
    elif kind is bytes:
        out.write(b'B' + struct.pack('<I', len(value)) + value)
    elif kind is tuple:
        _write_all(out, b'(', value, b't', memo)
    elif kind is list:
        _write_all(out, b'](', value, b'e', memo)
    elif isinstance(value, TypedDict):
        _write_all(out, b'', (value.kind, ()), b'\x81(', memo)
        _write_all(out, b'', [part for item in value.items() for part in item], b'u', memo)
    elif isinstance(value, dict):
        _write_all(out, b'}(', [part for item in value.items() for part in item], b'u', memo)
    elif kind is Global:
        out.write(f'c{value.module}\n{value.name}\n'.encode())
    elif kind is Call:
        _write_all(out, b'', (value.function, value.arguments), b'R', memo)
    elif kind is Reference:
        _write_all(out, b'', (value.id,), b'Q', memo)
    else:
        raise TypeError(f'{kind.__name__} cannot be written into a network file')


def _write_all(out: BinaryIO, before: bytes, values: Any, after: bytes, memo: dict[str, int]) -> None:
    out.write(before)
    for value in values:
        _write(out, value, memo)
    out.write(after)
