"""The pickle reader against hostile files: nothing runs, memory stays bounded, the answer is one sentence."""
import io
import os
import pickle
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_files import reference_pickle

import legacy
from torch_utils.checkpoint import CheckpointError
from torch_utils.foreign import inert_pickle, tensors
from torch_utils.foreign.inert_pickle import Call, Global, Reference, dumps
from training.networks import Discriminator, Generator

MAX_BYTES = 30_000_000      # Python memory that refusing a hostile file of a few kB may take.

# ---------------------------------------------------------------------------------------------------------------------
# The canary: the interpreter reports what it is asked to import, run, or open.

WATCHED = {'import', 'exec', 'compile', 'open', 'os.system', 'os.exec', 'os.posix_spawn', 'subprocess.Popen',
           'socket.connect', 'pickle.find_class', 'code.__new__', 'ctypes.dlopen'}
_events = None


def _hook(event, args):
    if _events is not None and event in WATCHED:
        _events.append((event, args[:1]))


sys.addaudithook(_hook)


def assert_inert(data):
    """Reads the bytes as a network file: refused in a sentence, nothing executed, memory bounded."""
    global _events
    tracemalloc.start()
    _events = []
    try:
        with pytest.raises(CheckpointError) as caught:
            legacy.load_network_pkl(io.BytesIO(data))
    finally:
        events, _events = _events, None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert events == []
    assert peak < MAX_BYTES
    message = str(caught.value)
    assert '\n' not in message and len(message) < 300, message
    return message


def test_the_canary_sings_when_a_pickle_is_really_executed():
    global _events
    _events = []
    pickle.loads(b'cos\nsystem\n(X\x04\x00\x00\x00truetR.')
    events, _events = _events, None
    assert ('os.system', (b'true',)) in events and any(event == 'pickle.find_class' for event, _ in events)


@pytest.fixture(scope='module', autouse=True)
def _warm_up():
    """What the first reading imports, it imports here."""
    with pytest.raises(CheckpointError):
        legacy.load_network_pkl(io.BytesIO(dumps({'G': 1})))
    legacy.load_network_pkl(io.BytesIO(small_snapshot()))


# ---------------------------------------------------------------------------------------------------------------------
# Files that call.

RUN = b'(X\x10\x00\x00\x00touch the_canarytR.'


@pytest.mark.parametrize('module, name', [
    ('os', 'system'), ('posix', 'system'), ('nt', 'system'), ('builtins', 'eval'), ('builtins', 'exec'),
    ('__builtin__', 'eval'), ('builtins', '__import__'), ('builtins', 'getattr'), ('builtins', 'open'),
    ('builtins', 'compile'), ('subprocess', 'Popen'), ('runpy', 'run_path'), ('importlib', 'import_module'),
    ('webbrowser', 'open'), ('pickle', 'loads'), ('torch', 'load'), ('torch.hub', 'load'), ('numpy', 'load'),
    ('numpy', 'fromfile'), ('operator', 'attrgetter'), ('functools', 'partial'), ('shutil', 'rmtree'),
    ('torch_utils.persistence', '_src_to_module'), ('torch_utils.persistence', 'import_hook'),
    ('dnnlib.util', 'open_url'), ('dnnlib.util', 'call_func_by_name'), ('torch._utils', '_rebuild_tensor'),
    ('training.networks', 'Generator'), ('no_such_module', 'f'),
])
def test_functions_outside_the_table_are_refused_by_name(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = [struct.pack('<I', len(word)) + word.encode() for word in (module, name)]
    for prefix in (f'\x80\x02c{module}\n{name}\n'.encode('latin1'),
                   b'\x80\x04X' + text[0] + b'X' + text[1] + b'\x93'):
        message = assert_inert(prefix + RUN)
        assert f'{module}.{name}' in message and 'nothing was executed' in message
    assert os.listdir() == []


@pytest.mark.parametrize('data', [
    b'\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.',                                # INST
    b'\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.',                               # OBJ
    b'\x80\x04cbuiltins\ndict\n)}\x92.',                                            # NEWOBJ_EX
    b'\x80\x02\x82\x01.', b'\x80\x02\x83\x01\x00.',                                 # EXT1, EXT2
    b'\x80\x02Pos.system\n.', b'\x80\x02X\x01\x00\x00\x00aQ.',                      # PERSID, BINPERSID
    b'\x80\x04X\x05\x00\x00\x00torch(\x93.', b'\x80\x04K\x01K\x02\x93.',            # STACK_GLOBAL of no names
    b'\x80\x02}}b.', b'\x80\x02](X\x01\x00\x00\x00ae}b.',                           # BUILD of dict and list
    b'\x80\x02ccollections\nOrderedDict\n}b.',                                      # BUILD of a class
    b'\x80\x02ccollections\nOrderedDict\n(cbuiltins\nset\n]tRtR.',                  # Arguments for OrderedDict
    b'\x80\x02X\x01\x00\x00\x00a)R.', b'\x80\x02})R.', b'\x80\x02ccollections\nOrderedDict\n]R.',   # REDUCE
    b'\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00zlibqtR.',
    b'\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.',
    b'\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.', b'\x80\x02cnumpy\nndarray\n)R.',
    b'\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.', b'\x80\x05\x97.',            # BYTEARRAY8, NEXT_BUFFER
])
def test_instructions_that_no_network_file_needs_are_refused(data):
    assert 'holds no networks' not in assert_inert(data)


def module(class_name='Generator', **state):
    state = {'_init_args': (), '_init_kwargs': {}, '_parameters': {}, '_buffers': {}, '_modules': {}, **state}
    return Call(Global('torch_utils.persistence', '_reconstruct_persistent_obj'), {
        'type': 'class', 'version': 6, 'module_src': 'import os; os.system("touch the_canary")',
        'class_name': class_name, 'state': state})


def snapshot(G):
    return dumps({'G': G, 'D': module('Discriminator'), 'G_ema': module()})


@pytest.mark.parametrize('class_name',
                         ['Generator', 'os.system', '__import__("os").system("true")', '', 'a' * 999, 5])
def test_the_source_and_the_class_name_of_a_module_are_never_used(class_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_inert(snapshot(module(class_name)))
    assert os.listdir() == []


@pytest.mark.parametrize('meta',
                         [None, {}, {'type': 'function', 'version': 6}, {'type': 'class', 'version': 7},
                                  {'type': 'class', 'version': 6, 'class_name': 'Generator', 'state': []}])
def test_modules_of_another_form_are_refused(meta):
    call = Call(Global('torch_utils.persistence', '_reconstruct_persistent_obj'), meta)
    assert_inert(dumps({'G': call, 'D': call, 'G_ema': call}))


@pytest.mark.parametrize('state', [
    {'_parameters': 5}, {'_buffers': []}, {'_modules': 'a'}, {'_init_kwargs': 'a'},
    {'_parameters': {'a': 'text'}},
    {'_init_args': 'abc'}, {'_init_args': ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')},
    {'_init_kwargs': {'z_dim': {}}}, {'_init_kwargs': {'self': 1}},
    {'_init_args': (8, 0, 8, 4, 1), '_init_kwargs': {'synthesis_kwargs': {'__class__': 1}}},
])
def test_states_of_wrong_types_are_refused(state):
    assert 'missing 5 required' not in assert_inert(snapshot(module(**state)))


# ---------------------------------------------------------------------------------------------------------------------
# Files that hide a pickle inside of a pickle.

def storage(data, count=None, kind='FloatStorage', **changes):
    """A storage as torch writes it, with lies."""
    id = ('storage', Global('torch', kind), '0', 'cpu', len(data) // 4 if count is None else count, None)
    values = {'magic': tensors.MAGIC, 'version': 1001, 'machine': {'little_endian': True},
              'id': Reference(id), 'keys': ['0'], **changes}
    pickles = b''.join(value if isinstance(value, bytes) else dumps(value, 2) for value in values.values())
    declared = len(data) // 4 if count is None else count
    return pickles + struct.pack('<q', max(min(declared, 2 ** 62), 0)) + data


def tensor(data, size=(4,), stride=(1,), offset=0):
    load = Call(Global('torch.storage', '_load_from_bytes'), data)
    return Call(Global('torch._utils', '_rebuild_tensor_v2'), load, offset, size, stride, False,
                Call(Global('collections', 'OrderedDict')))


def holding(value):
    return snapshot(module(_parameters={'weight': value}))


PAST_THE_READER = 'does not accept its arguments'       # Said of a generator without any.


def test_an_honest_tensor_gets_past_the_reader():
    assert PAST_THE_READER in assert_inert(holding(tensor(storage(bytes(16)))))


EVIL = b'\x80\x02cos\nsystem\n' + RUN


@pytest.mark.parametrize('data', [
    b'', b'\x80\x02N.', EVIL, storage(bytes(16), magic=EVIL), storage(bytes(16), version=EVIL),
    storage(bytes(16), machine=EVIL), storage(bytes(16), id=EVIL), storage(bytes(16), keys=EVIL),
    storage(bytes(16), machine={'little_endian': False}), storage(bytes(16), keys=['1']),
    storage(bytes(16), keys=5), storage(bytes(16), keys=[]), storage(bytes(16), keys=['0', '0']),
    storage(bytes(16), id=Reference(5)), storage(bytes(16), id=Reference(('module', 1, 2, 3, 4, 5))),
    storage(bytes(16), id=Reference(('storage', 'FloatStorage', '0', 'cpu', 4, None))),
    storage(bytes(16), id=None), storage(bytes(16), kind='UntypedStorage'), storage(bytes(16), kind='load'),
    'text', 5, None,
], ids=lambda data: repr(data)[:30])
def test_storages_are_not_a_way_in(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PAST_THE_READER not in assert_inert(holding(tensor(data)))
    assert os.listdir() == []


# ---------------------------------------------------------------------------------------------------------------------
# Files that declare more than they hold.

@pytest.mark.parametrize('data', [
    holding(tensor(storage(bytes(16), count=2 ** 60))), holding(tensor(storage(bytes(16), count=1000))),
    holding(tensor(storage(bytes(16), count=-1))), holding(tensor(storage(bytes(16), count=3))),
    holding(tensor(storage(bytes(16)), size=(2 ** 40,))),
    holding(tensor(storage(bytes(16)), (2 ** 40,), (0,))),
    holding(tensor(storage(bytes(16)), (5,))), holding(tensor(storage(bytes(16)), offset=1)),
    holding(tensor(storage(bytes(16)), (2, 2), (3, 1))), holding(tensor(storage(bytes(16)), (2,), (-1,))),
    holding(tensor(storage(bytes(16)), (4,), (1,), -1)), holding(tensor(storage(bytes(16)), (4,), (1, 1))),
    holding(tensor(storage(bytes(16)), (0, 2 ** 70), (1, 1))),
    holding(tensor(storage(bytes(16)), (1,) * 9, (1,) * 9)),
    holding(tensor(storage(bytes(16)), 'a', 'b')), holding(tensor(storage(bytes(16)), (4,), (1,), 2 ** 70)),
    b'\x80\x04\x8e' + struct.pack('<Q', 2 ** 62) + b'a.',
    b'\x80\x04\x8d' + struct.pack('<Q', 2 ** 62) + b'a.',
    b'\x80\x04\x8e' + struct.pack('<Q', 2 ** 64 - 1) + b'a.', b'\x80\x02X\xff\xff\xff\xffa.',
    b'\x80\x03B\xff\xff\xff\xffa.',
    b'\x80\x02\x8b\xff\xff\xff\x7fa.', b'\x80\x02\x8b\xff\xff\xff\xffa.',
    b'\x80\x05\x96' + struct.pack('<Q', 2 ** 40),
    b'\x80\x02]r\xff\xff\xff\xff.', b'\x80\x04\x95' + struct.pack('<Q', 2 ** 62) + b'].',
    b'\x80\x02I' + b'9' * 9999 + b'\n.',
], ids=lambda data: str(len(data)))
def test_sizes_are_compared_with_what_is_there(data):
    assert PAST_THE_READER not in assert_inert(data)


@pytest.mark.parametrize('size, stride, offset', [
    ((2 ** 40,), (0,), 0), ((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 0), ((1,), (1,), 4)])
def test_views_stay_within_their_storage(size, stride, offset):
    with pytest.raises(CheckpointError, match='in a storage of 4 elements'):
        tensors.rebuild_tensor(torch.zeros(4), offset, size, stride)


def test_one_storage_named_a_thousand_times_does_not_multiply():
    data = storage(bytes(400_000))
    call = b'ctorch.storage\n_load_from_bytes\n(h\x00tR'
    message = assert_inert(b'\x80\x03(B' + struct.pack('<I', len(data)) + data + b'q\x00' + call * 1000
                           + b't.')
    assert 'declares more data than it holds' in message


def test_one_tensor_under_many_names_does_not_multiply():
    names = [f'fc{i}' for i in range(300)]
    kwargs = {'z_dim': 500, 'c_dim': 0, 'w_dim': 500, 'img_resolution': 4, 'img_channels': 1,
              'mapping_kwargs': {'num_layers': len(names)}, 'synthesis_kwargs': {}}
    layers = {name: module('FullyConnectedLayer', _parameters={'weight': 'WEIGHT'}) for name in names}
    record = dumps(module(_init_kwargs=kwargs,
                          _modules={'mapping': module('MappingNetwork', _modules=layers)}))
    index = record[record.index(b'WEIGHTr') + 7:][:4]          # Under which the later layers ask for WEIGHT.
    weight = dumps(tensor(storage(bytes(4 * 250_000)), (500, 500), (500, 1)))[2:-1]
    message = assert_inert(three_networks(splice(record, 'WEIGHT', weight + b'r' + index)))
    assert 'the network is larger than the file it comes from' in message


@pytest.mark.parametrize('shape, kind, data', [
    ((2 ** 40,), 'f4', b'1234'), ((2,), 'f4', b'1234'), ((-1,), 'f4', b'1234'), ((1,) * 9, 'f4', b'1234'),
    ('a', 'f4', b'1234'), ((1,), 'f4', 'abcd'), ((1,), None, b'1234')])
def test_arrays_must_hold_what_their_shape_says(shape, kind, data):
    dtype = Call(Global('numpy', 'dtype'), kind, False, True) if kind else 'f4'
    array = Call(Global('numpy.core.multiarray', '_reconstruct'), Global('numpy', 'ndarray'), (0,), b'b')
    message = assert_inert(dumps(array)[:-1] + dumps((1, shape, dtype, False, data))[2:-1] + b'b.')
    assert 'the description of an array makes no sense' in message


# ---------------------------------------------------------------------------------------------------------------------
# Files that recurse.

def splice(pickled, word, instructions):
    """The body of a pickle made by `dumps`, with other instructions in the place of a text."""
    text = b'X' + struct.pack('<I', len(word)) + word.encode()
    start = pickled.index(text)
    return pickled[2:start] + instructions + pickled[start + len(text) + 5:-1]


def three_networks(G):
    """A snapshot whose generator is made by these instructions."""
    named = [b'X\x01\x00\x00\x00G' + G, b'X\x01\x00\x00\x00D' + dumps(module('Discriminator'))[2:-1],
             b'X\x05\x00\x00\x00G_ema' + dumps(module())[2:-1]]
    return b'\x80\x03}(' + b''.join(named) + b'u.'


DEPTH = 20_000      # Python's limit is 1000; without one, C code fails in the tens of thousands.


@pytest.mark.parametrize('deep', [b']' * DEPTH + b'N' + b'a' * DEPTH, b'}K\x01' * DEPTH + b'N' + b's' * DEPTH,
                                  b'(' * DEPTH + b'N' + b't' * DEPTH, b'N' + b'\x85' * DEPTH, b'(' * DEPTH],
                         ids=['lists', 'dicts', 'marks', 'tuples', 'open marks'])
def test_deep_nesting_is_no_recursion(deep):
    assert_inert(b'\x80\x03' + deep + b'.')
    for state in ({'_init_kwargs': {'z_dim': 'DEEP'}}, {'_modules': {'a': 'DEEP'}}):
        assert 'recursion' not in assert_inert(three_networks(splice(dumps(module(**state)), 'DEEP', deep)))


def test_a_key_that_would_be_hashed_in_recursion_is_refused():
    for key in (b'N' + b'\x85' * DEPTH, b']', b'}', b'N', b'G' + bytes(8)):
        assert 'a dict with a key of type' in assert_inert(b'\x80\x02}' + key + b'Ns.')


def test_modules_inside_themselves_end():
    inner = splice(dumps(module(_modules='SELF')), 'SELF', b'j\xe7\x03\x00\x00')
    table = b'}r\xe7\x03\x00\x00(X\x01\x00\x00\x00a' + inner + b'u'
    assert 'nested too deeply' in assert_inert(three_networks(splice(dumps(module(_modules='TABLE')), 'TABLE', table)))


def test_modules_that_double_at_every_level_end():
    instructions = dumps(module(), 2)[2:-1]
    for level in range(25):
        index = struct.pack('<I', 900 + level)
        table = (b'}(X\x01\x00\x00\x00a' + instructions + b'r' + index + b'X\x01\x00\x00\x00bj' + index
                 + b'u')
        instructions = splice(dumps(module(_modules='TABLE')), 'TABLE', table)
    assert 'nested too deeply, or too many' in assert_inert(three_networks(instructions))


def test_options_that_double_at_every_level_end():
    instructions = b']'
    for level in range(25):
        index = struct.pack('<I', 900 + level)
        instructions = b'](' + instructions + b'r' + index + b'j' + index + b'e'
    G = splice(dumps(module(_init_kwargs={'z_dim': 'DEEP'})), 'DEEP', instructions)
    assert 'nested too deeply, or too many' in assert_inert(three_networks(G))


# ---------------------------------------------------------------------------------------------------------------------
# Fuzzing.

def small_snapshot():
    torch.manual_seed(0)
    G = Generator(2, 0, 2, 4, 1, {'num_layers': 1}, {'channel_base': 8, 'channel_max': 2})
    D = Discriminator(0, 8, 1, channel_base=8, channel_max=2)
    return reference_pickle({'training_set_kwargs': None, 'G': G, 'D': D, 'G_ema': G, 'augment_pipe': None},
                            4)


SNAPSHOT = small_snapshot()


def read_quietly(data):
    """Anything may come out but an exception other than ours, or anything executed."""
    global _events
    _events = []
    try:
        legacy.load_network_pkl(io.BytesIO(data))
    except CheckpointError as error:
        assert '\n' not in str(error)
    finally:
        events, _events = _events, None
    assert events == []


@given(st.lists(st.tuples(st.integers(0, len(SNAPSHOT) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_changed_bytes_execute_nothing(changes):
    data = bytearray(SNAPSHOT)
    for position, value in changes:
        data[position] = value
    read_quietly(bytes(data))


@given(st.integers(0, len(SNAPSHOT)), st.integers(0, len(SNAPSHOT)), st.integers(0, len(SNAPSHOT)))
@settings(max_examples=100, deadline=None)
def test_truncated_and_rearranged_files_execute_nothing(a, b, c):
    read_quietly(SNAPSHOT[:a] + SNAPSHOT[b:c])


NAMES = ['os\nsystem', 'builtins\nset', 'collections\nOrderedDict', '_codecs\nencode', 'numpy\ndtype',
         'numpy.core.multiarray\n_reconstruct', 'numpy.core.multiarray\nscalar',
         'torch._utils\n_rebuild_tensor_v2',
         'torch._utils\n_rebuild_parameter', 'torch.storage\n_load_from_bytes', 'dnnlib.util\nEasyDict',
         'torch_utils.persistence\n_reconstruct_persistent_obj', 'dnnlib.tflib.network\nNetwork']
WORDS = [b'(', b')', b'}', b']', b'N', b'K\x01', b't', b'\x85', b'\x86', b'e', b'a', b'u', b's', b'R',
         b'\x81', b'b',
         b'q\x01', b'h\x01', b'\x94', b'\x8f', b'\x90', b'Q', b'X\x01\x00\x00\x00a', b'G' + bytes(8),
         b'C\x02ab', b'\x93', b'0', b'2', *(f'c{name}\n'.encode() for name in NAMES)]


@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=3), max_size=30))
@settings(max_examples=500, deadline=None)
def test_random_programs_execute_nothing(words):
    read_quietly(b'\x80\x04' + b''.join(words) + b'.')


# ---------------------------------------------------------------------------------------------------------------------
# The writer, and what reading keeps.

@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
                    | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(),
                    inner)
                    | st.lists(inner).map(tuple), max_leaves=10))
@settings(max_examples=100, deadline=None)
def test_plain_data_is_written_as_the_standard_library_reads_it_and_read_as_it_writes_it(value):
    assert pickle.loads(dumps(value)) == value
    for protocol in (2, 3, 4, 5):
        known = tensors.substitutes(10 ** 6)        # Protocol 2 spells byte strings as calls.
        assert inert_pickle.load(io.BytesIO(pickle.dumps(value, protocol)), known) == value


@pytest.mark.filterwarnings('ignore:TypedStorage is deprecated')
@pytest.mark.parametrize('dtype', list(tensors.STORAGES.values()), ids=str)
def test_storages_are_written_as_torch_reads_them_and_read_as_it_writes_them(dtype):
    x = torch.tensor([0, 1, 0, 1, 1]).to(dtype)
    theirs = torch.load(io.BytesIO(tensors.storage_bytes(x)), weights_only=True)
    assert torch.equal(torch.tensor([], dtype=dtype).set_(theirs), x)
    file = io.BytesIO()
    torch.save(x.storage(), file, _use_new_zipfile_serialization=False)
    assert torch.equal(tensors.load_storage(file.getvalue(), tensors.Budget(10 ** 4)), x)


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('array', [
    np.arange(6, dtype='<f4').reshape(2, 3), np.arange(6, dtype='>f8').reshape(2, 3),
    np.asfortranarray(np.eye(3)[:2]),
    np.array(True), np.zeros([0, 3]), np.arange(4, dtype='u1')], ids=lambda a: f'{a.dtype}{a.shape}')
def test_arrays_and_numbers_of_numpy_are_read(array, protocol):
    known = tensors.substitutes(10 ** 4)
    value = inert_pickle.load(io.BytesIO(pickle.dumps({'a': array, 'n': array.dtype.type(1)}, protocol)),
                              known)
    np.testing.assert_array_equal(value['a'].array, array)
    assert value['n'] == 1 and type(value['n']) in (int, float, bool)
