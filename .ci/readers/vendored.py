"""Makes the conda that is inside conda-lock importable as conda, without importing conda-lock itself.

Import this before anything that imports conda, in processes that such a program starts too.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import types


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "conda" or name.startswith("conda."):
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        return importlib.import_module("conda_lock._vendor." + spec.name)

    def exec_module(self, module):
        pass


_lock = types.ModuleType("conda_lock")
_lock.__path__ = list(importlib.util.find_spec("conda_lock").submodule_search_locations)
sys.modules["conda_lock"] = _lock
sys.meta_path.insert(0, _Alias())
