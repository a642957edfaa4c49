"""conda-index's own command line: run_conda_index.py ARGUMENTS OF conda_index."""

import sys

import vendored  # noqa: F401

if __name__ == "__main__":
    from conda_index.cli import cli

    cli(sys.argv[1:])
