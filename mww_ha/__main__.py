"""``python -m mww_ha``: the same as ``mww-ha``."""

from mww_ha.cli import main

if __name__ == "__main__":
    main()
