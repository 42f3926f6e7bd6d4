"""TDGAN between sites on one machine: a generator's site and two centres, three processes with test certificates.

    python benchmarks/sites_demo.py --outdir=sites-demo-out         # Six minutes on two cores.

The centres are the bundled images, and the same with red and blue exchanged. At the end `centres.png` shows some images of each
centre, and below them what G draws for it, which has seen neither. Stop it and start it again as you like.
"""
import io
import os
import subprocess
import sys
import zipfile
from contextlib import ExitStack, suppress
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

NAMES = ('north', 'south')
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
STOPPED = 75
END_SEC = 60                         # That a centre may take to end.
PATIENCE_SEC = 600                   # Then centres end whose generator's site was killed.
SCALE, LINE = 3, 26                  # Of the picture: its size, and the height of a line of text in pixels.
# What `make demo` plays (docs/evidence-demo.md).
PLAIN = ('--aug=noaug', '--mirror=1', '--loss=relativistic')
METHODS = 'tdgan,r2'


def make_centres(source: Path, folder: Path) -> list[Path]:
    """The archives of both centres: the images as they are, and with red and blue exchanged."""
    from PIL import Image

    from dnnlib.picture_files import open_picture
    paths = [folder / f'{name}.zip' for name in NAMES]
    with zipfile.ZipFile(source) as archive, ExitStack() as stack:
        made = [stack.enter_context(zipfile.ZipFile(path, 'w')) for path in paths]
        for name in sorted(name for name in archive.namelist() if name.endswith('.png')):
            data = archive.read(name)
            changed = io.BytesIO()
            with open_picture(io.BytesIO(data)) as picture:
                Image.merge('RGB', picture.convert('RGB').split()[::-1]).save(changed, 'png')
            made[0].writestr(name, data)
            made[1].writestr(name, changed.getvalue())
    return paths


def run_sites(folder: Path, paths: list[Path], kimg: float, port: int) -> Path:
    """Trains with three processes; returns the directory of the run."""
    from torch_utils.wire import certificates
    for name in ('generator', *NAMES):
        if not (folder / 'certs' / name).exists():
            certificates.make_authority(folder / 'certs', 'generator', ['localhost'], NAMES)
    certs, address, processes = folder / 'certs', f'localhost:{port}', []
    for name, path in zip(NAMES, paths):
        processes.append(start(folder / f'{name}.txt', 'tdgan_centre.py', f'--data={path}', f'--private={folder / name}',
                               f'--connect={address}', f'--name={name}', f'--tls={certs / name}',
                               f'--record-wire={folder / "wire" / name}', f'--patience={PATIENCE_SEC}', '--device=cpu'))
    try:
        command = ['train.py', f'--outdir={folder / "generator"}', f'--reg_type={METHODS}', '--tdgan_mode=remote',
                   f'--tdgan_centres={",".join(NAMES)}', f'--tdgan_listen={address}', f'--tdgan_tls={certs / "generator"}',
                   '--tdgan_res=32', '--cfg=tiny', '--metrics=none', '--device=cpu', *PLAIN,
                   f'--tdgan_schedule={schedule_of(kimg)}']
        wait_for(subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment()))
        for process in processes:
            process.wait(END_SEC)
    finally:
        end(processes)
    return max((folder / 'generator').glob('0*'))


def schedule_of(kimg: float) -> str:
    """Most of the time the first centre; the second one has what it has learnt to begin with."""
    return f'0:{kimg:g},1:{kimg * 3 / 8:g},0+1:{kimg / 4:g}'


def end(processes: list[subprocess.Popen]) -> None:
    """Centres, of which nothing is lost: they have saved what they were asked to."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(END_SEC)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(generator: subprocess.Popen) -> None:
    """Until a run is through. It hears Ctrl-C, too, however often, and has time to save; then, or if it fails,
    this program ends."""
    status = None
    while status is None:
        with suppress(KeyboardInterrupt):
            status = generator.wait()
    if status == STOPPED:
        click.echo('The same command goes on.')
    if status:
        sys.exit(status)


def environment() -> dict[str, str]:
    """One thread for each process: networks so small are not faster with more."""
    return {'OMP_NUM_THREADS': '1', **os.environ}


def start(log: Path, *args: str) -> subprocess.Popen:
    """A centre, whose output goes into a file. It does not hear Ctrl-C: it saves when it is asked to."""
    with open(log, 'a') as file:
        return subprocess.Popen([sys.executable, *args], cwd=ROOT, stdout=file, stderr=file,
                                env=environment(), start_new_session=True)


def draw(run_dir: Path, paths: list[Path], dest: Path) -> None:
    """Some images of each centre, and below them what G draws for it, each row under a line that says so."""
    from centre_sheet import fakes, reals
    from PIL import Image, ImageDraw, ImageFont
    drawn = fakes(max(run_dir.glob('network-snapshot-*.safetensors')))
    rows = [row for index, (name, path) in enumerate(zip(NAMES, paths)) for row in (
        (f'{name}: some of its images, which stay there', reals(str(path))),
        (f'{name}: what G draws for it, without having seen any', drawn[index]))]
    rows = [(text, picture.resize((picture.width * SCALE, picture.height * SCALE), Image.NEAREST)) for text, picture in rows]
    sheet = Image.new('RGB', (rows[0][1].width, sum(LINE + picture.height for _, picture in rows)), 'white')
    pen, top = ImageDraw.Draw(sheet), 0
    for text, picture in rows:
        pen.text((4, top + 3), text, fill='black', font=ImageFont.load_default(LINE - 10))
        sheet.paste(picture, (0, top + LINE))
        top += LINE + picture.height
    sheet.save(dest)


@click.command()
@click.option('--outdir', type=click.Path(path_type=Path), default='sites-demo-out', show_default=True,
              help='Where all of it goes.')
@click.option('--kimg', type=float, default=4.0, show_default=True, help='Thousands of images of the first stage.')
@click.option('--data', type=click.Path(exists=True, path_type=Path), default=DATA, help='Images of 32 pixels, a zip.')
@click.option('--port', default=7300, show_default=True, help='Where the generator\'s site listens.')
def main(outdir: Path, kimg: float, data: Path, port: int) -> None:
    """Train TDGAN between three processes with test certificates, and draw what G draws for every centre."""
    outdir.mkdir(parents=True, exist_ok=True)
    paths = make_centres(data, outdir)
    run_dir = run_sites(outdir.resolve(), [path.resolve() for path in paths], kimg, port)
    draw(run_dir, paths, outdir / 'centres.png')
    click.echo(f'Look at {outdir}/centres.png, {run_dir}/report.html and {outdir}/north/report.html.')
    for name, path in zip(NAMES, paths):
        click.echo(f'What has left {name}:')
        subprocess.run([sys.executable, 'tdgan_audit.py', str((outdir / 'wire' / name).resolve()), f'--data={path.resolve()}'],
                       cwd=ROOT, check=True)


if __name__ == '__main__':
    main()
