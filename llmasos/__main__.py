"""``python -m llmasos``: the same as the ``llmasos`` command."""

from llmasos.cli.entry import main

if __name__ == "__main__":
    main()
