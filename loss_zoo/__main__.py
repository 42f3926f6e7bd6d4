"""`python -m loss_zoo` is the command `loss-zoo`."""
from loss_zoo.command import main

if __name__ == '__main__':
    main()
