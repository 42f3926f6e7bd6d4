"""torch.compile and torch.export pass through operators,
layers and networks in one graph, on either back end.

Graphs are run by torch itself (`aot_eager` and `eager`, which
compile nothing), so results are the same to rounding.
"""
import warnings

import pytest
import torch

from torch_utils.ops import backend, build
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
from training.layers import Conv2dLayer, SynthesisLayer
from training.networks import Discriminator, Generator


@pytest.fixture(autouse=True)
def forget_graphs():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def native():
    """The compiled operators are there."""
    reason = backend.why_not('cpu', torch.float32)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=['native', 'reference'])
def ops(request):
    """The name of the back end that runs."""
    if request.param == 'native':
        request.getfixturevalue('native')
    with backend.default(request.param):
        yield request.param


class Recorder:
    """Runs graphs as they are and keeps them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph.graph)
        return graph

    def num_native(self):
        return sum(num_native(graph) for graph in self.graphs)


def num_native(graph):
    """How many compiled operators are called in a graph."""
    return sum('stylegan2_loss_zoo' in str(node.target) for node in graph.nodes)


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def small_generator():
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=dict(channel_base=64, channel_max=8))
    for block in (G.synthesis.b4, G.synthesis.b8):
        block.conv1.noise_strength.data.fill_(0.5)
    return G.eval().requires_grad_(False)


def operator_bias_act():
    bias = torch.linspace(-1, 1, 4)
    return lambda x: bias_act(x, bias, act='lrelu', clamp=1.5)


def operator_upfirdn2d():
    f = setup_filter([1, 3, 3, 1])
    return lambda x: upfirdn2d(x, f, up=2, down=3, padding=(2, 1, 0, 3), gain=4)


def layer_with_style():
    layer, w = SynthesisLayer(4, 6, 8, 16, up=2), torch.randn([2, 8])
    layer.noise_strength.data.fill_(0.5)
    return lambda x: layer(x, w, noise_mode='random')


def plain_layer():
    return Conv2dLayer(4, 6, kernel_size=3, down=2, activation='lrelu')


@pytest.mark.parametrize('make', [operator_bias_act, operator_upfirdn2d, layer_with_style, plain_layer])
def test_values_and_gradients_pass_through_one_graph(ops, make):
    if make is operator_upfirdn2d and torch.torch_version.TorchVersion(torch.__version__) < '2.8':
        pytest.skip('older ones do not trace a backward pass that asks for a memory format')
    torch.manual_seed(0)
    function = make()
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    results = []
    for f in (function, compiled):
        x = images(2, 4, 8, 8).requires_grad_()
        torch.manual_seed(2)                # Of the noise.
        y = f(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)


def test_networks_are_one_graph_each(ops):
    G, recorder = small_generator(), Recorder()
    D = Discriminator(0, 8, 3, channel_base=64, channel_max=8).eval().requires_grad_(False)
    z = torch.randn([4, 8], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        img = G(z, None, truncation_psi=0.7, noise_mode='const')
        assert torch.equal(torch.compile(G, fullgraph=True, backend=recorder)(
            z, None, truncation_psi=0.7, noise_mode='const'), img)
        assert torch.equal(torch.compile(D, fullgraph=True, backend=recorder)(img, None), D(img, None))
    assert len(recorder.graphs) == 2
    assert (recorder.num_native() > 0) == (ops == 'native')


def test_a_module_compiled_in_place_keeps_its_names_and_pictures(ops):
    G, recorder = small_generator(), Recorder()
    ws, names = torch.randn([2, G.num_ws, 8]), list(G.state_dict())
    img = G.synthesis(ws, noise_mode='const')
    G.synthesis.compile(fullgraph=True, backend=recorder)
    assert torch.equal(G.synthesis(ws, noise_mode='const'), img) and len(recorder.graphs) == 1
    assert list(G.state_dict()) == names


def test_another_back_end_makes_another_graph(native):
    recorder, counts = Recorder(), []
    function = torch.compile(lambda x: bias_act(x, act='lrelu'), fullgraph=True, backend=recorder)
    for name in ('reference', 'native'):
        with backend.default(name):
            function(images(2, 4, 8, 8))
        counts.append(recorder.num_native())
    assert counts == [0, 1]


@pytest.fixture
def nothing_loaded():
    """As in a process that has not called an operator yet."""
    caches = backend.load, backend.load_library, backend.say_once
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_operators_are_loaded_while_the_first_graph_is_made(native, nothing_loaded, monkeypatch):
    loaded = []
    monkeypatch.setattr(torch.ops, 'load_library', loaded.append)
    recorder = Recorder()
    torch.compile(operator_bias_act(), fullgraph=True, backend=recorder)(images(2, 4, 8, 8))
    assert len(loaded) == 1 and recorder.num_native() == 1


def test_without_a_compiler_the_graph_is_plain_and_it_is_said(nothing_loaded, monkeypatch):
    def fail(library):
        raise build.Unavailable('no C++ compiler')
    monkeypatch.setattr(build, 'find_toolchain', fail)
    recorder = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.compile(operator_bias_act(), fullgraph=True, backend=recorder)(images(2, 4, 8, 8))
    assert recorder.num_native() == 0
    assert any('no C++ compiler' in str(warning.message) for warning in caught)


@pytest.mark.parametrize('ops, strict', [('native', True), ('native', False), ('reference', False)], indirect=['ops'])
def test_exported_programs_hold_the_operators_and_serve_any_batch(ops, strict):
    G = small_generator()

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.G = G

        def forward(self, ws):
            return self.G.synthesis(ws, noise_mode='const')

    with torch.no_grad():
        batch = torch.export.Dim('batch', min=1, max=2**31 - 1)
        program = torch.export.export(
            Program(), (torch.randn([2, G.num_ws, 8]),), dynamic_shapes=[{0: batch}], strict=strict)
        ws = torch.randn([3, G.num_ws, 8])
        torch.testing.assert_close(program.module()(ws), G.synthesis(ws, noise_mode='const'))
    assert (num_native(program.graph) > 0) == (ops == 'native')
