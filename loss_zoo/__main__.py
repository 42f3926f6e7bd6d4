"""`python -m loss_zoo` and the installed command `loss-zoo`."""
import sys

from loss_zoo import programs


def main() -> None:
    """The command; Ctrl-C is heard before anything that takes time is imported."""
    programs.make_importable()
    from dnnlib import ctrl_c
    ctrl_c.hear()
    from loss_zoo import command
    command.main()


if __name__ == '__main__':
    sys.exit(main())
