"""conda's own command line: run_conda.py ARGUMENTS OF conda."""

import sys

import vendored  # noqa: F401

if __name__ == "__main__":
    from conda.cli import main

    sys.exit(main(*sys.argv[1:]))
