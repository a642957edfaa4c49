"""Runs a coroutine of rattler's and leaves the process with 0, or 1 and the traceback.

Without the interpreter's end: rattler's threads now and then outlive it and crash a process whose work is done.
"""

import asyncio
import os
import sys
import traceback


def run(coroutine):
    code = 0
    try:
        asyncio.run(coroutine)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
