"""CUDA graphs: do replayed phases train the same bits as phases that run; what becomes of a capture that fails."""
import traceback

import torch

from benchmarks.timing import SMALL

LAZY = [*SMALL, '--nobench=1', '--pl_interval=2', '--r1_interval=2']
CASES = {
    'base': ['--aug=noaug'], 'ada': ['--aug=ada'], 'fp16 base': ['--aug=noaug', '--precision=fp16', '--nhwc=1'],
    'genco': ['--aug=ada', '--reg_type=genco'], 'osgan': ['--aug=noaug', '--loss=osgan'],
    'diggan': ['--aug=noaug', '--reg_type=diggan', '--diggan_interval=2'], 'ggdr': ['--aug=ada', '--reg_type=ggdr'],
    'lecam apa': ['--aug=noaug', '--reg_type=lecam,apa', '--lecam_start=2', '--lecam_weight=0.1'],
    'insgen': ['--aug=diffaug', '--reg_type=insgen', '--insgen_queue_real=8', '--insgen_queue_fake=8'],
    'fakeclr': ['--aug=diffaug', '--reg_type=fakeclr', '--fakeclr_queue=8'],
    'consistency': ['--aug=ada', '--reg_type=bcr,zcr', '--bcr_shift=0.125'], 'diffusion': ['--aug=diffusion'],
    'r3gan networks': ['--aug=noaug', '--G=R3Generator', '--D=R3Critic', '--mixing-prob=0', '--pl_weight=0', '--mbstd-group=0',
                       '--loss=relativistic', '--reg_type=r2', '--precision=fp32'],
    'vision': ['--aug=noaug', '--reg_type=vision', '--vision_warmup=0.05', '--vision_size=64'],
}
ITERATIONS = 8


def check_graphs(report):
    """A row for each case; what raised, line by line, below it."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    sample_exactly()
    for name, options in CASES.items():
        if not report.has_time(f'graphs/{name}', 12):
            return
        texts = []
        with report.trying(f'graphs/{name}'):
            try:
                compare(report, name, [*LAZY, *options], texts)
            except Exception:
                texts.append(traceback.format_exc())
                raise
            finally:
                for text in texts[:2]:
                    for line in text[-1600:].splitlines()[-16:]:
                        report.row(f'graphs/{name}: why', 'FAIL', line.strip())
        if report.reduced and name == 'ada':
            return
    with report.trying('graphs/refused'):
        check_failed_capture(report)


def compare(report, name, options, texts):
    """Trains a run as usual beside one with graphs, and says where they part."""
    from torch_utils import training_stats
    runs = [with_graphs(report, options, graphs, texts) for graphs in (False, True)]
    pending, parted = [{}, {}], None
    for number in range(4 if report.reduced else ITERATIONS):
        for side, run in enumerate(runs):
            training_stats.registry.pending = pending[side]
            iterate(run)
        parted = parted or difference(number, *runs)
    reported = []
    for side in range(2):
        training_stats.registry.pending = pending[side]
        reported.append(training_stats.reported())
    if parted is None and reported[0] != reported[1]:
        parted = 'statistics differ: ' + ', '.join(key for key in reported[0] if reported[0][key] != reported[1].get(key))
    graphs = runs[1].graphs
    refused = '; '.join(f'{phase}: {why}' for phase, why in graphs.refused.items())
    report.row(f'graphs/{name}', parted is None and not refused and len(graphs) > 0,
               f'{parted or "the same bits"}; {len(graphs)} graphs' + (f'; refused: {refused}' if refused else ''))


def with_graphs(report, options, wanted, texts=None):
    """A run, with its margins rounded up, and with graphs if they are wanted. What a failed capture raises goes to `texts`."""
    from gpu.speed import prepare
    from training.graphs import MARGINS, PhaseGraphs
    plain = ['--ops=reference'] if report.device.type == 'cpu' else []      # What the emulation sees.
    run = prepare(report, 16 if report.reduced else 32, [*options, *plain])
    if hasattr(run.game.augment, 'margin_shares'):
        run.game.augment.margin_shares = MARGINS
    if wanted:
        run.graphs = PhaseGraphs(run.randomness, recorder(report.device))
        capture = run.graphs._capture

        def noting(*args):
            try:
                return capture(*args)
            except Exception:
                texts.append(traceback.format_exc())
                raise
        run.graphs._capture = noting
    return run


def recorder(device):
    """Of the device; a CPU has the emulation of the tests."""
    if device.type == 'cuda':
        from torch_utils.cuda_graphs import CudaRecorder
        return CudaRecorder(device)
    from graphs_on_cpu import CpuRecorder
    return CpuRecorder()


def iterate(run):
    """One iteration as in training."""
    from methods import NoTicks

    from training.training_loop import run_iteration
    run_iteration(run, NoTicks())


def difference(number, first, second):
    """Where the states of two runs differ, as text; None if they do not."""
    found = []
    second = leaves(dict(run=second.state_dict(), local=second.local_state_dict()))
    for name, value in leaves(dict(run=first.state_dict(), local=first.local_state_dict())).items():
        if not torch.equal(value, second[name].to(value.device)):
            found.append(f'{name} by {float((value.double() - second[name].double()).abs().max()):.1e}')
    return f'iteration {number}: {len(found)} differ, {", ".join(found[:3])}' if found else None


def leaves(state, prefix=''):
    """{path: tensor} of a nested state."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {path: leaf for key, value in items for path, leaf in leaves(value, f'{prefix}/{key}').items()}


def sample_exactly():
    """Gradients of sampled images are added up in any order on a GPU; in float64 it does not show."""
    from torch_utils.ops import grid_sample_gradfix
    transposed = grid_sample_gradfix._SampleTransposed
    forward = transposed.forward

    def in_float64(ctx, samples, grid, image_shape):
        return forward(ctx, samples.double(), grid.double(), image_shape).to(samples.dtype)

    def backward(ctx, image):
        grid, = ctx.saved_tensors
        return grid_sample_gradfix._Sample.apply(image, grid.to(image.dtype)), None, None
    transposed.forward, transposed.backward = staticmethod(in_float64), staticmethod(backward)


def check_failed_capture(report):
    """A phase that reads a number: it is refused in a sentence, and training goes on, also for torch's own random numbers."""
    run = with_graphs(report, [*LAZY, '--aug=noaug'], True, [])
    phase = run.phases[0]
    step = phase.step

    def reading(game, ctx):
        step(game, ctx)
        float(ctx.gen.img.mean())
    reading.sites = step.sites
    phase.step = reading
    for _ in range(4):
        iterate(run)
    drawn = torch.randn([4], device=report.device)
    finite = all(bool(p.isfinite().all()) for player in run.game.players for p in player.module.parameters())
    report.row('graphs/refused', list(run.graphs.refused) == [phase.name] and finite and bool(drawn.isfinite().all()),
               f'{run.graphs.refused}, weights finite: {finite}')
