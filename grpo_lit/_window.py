"What a package shows at its door, loaded when it is first asked for; and modules that have moved."
import sys
from importlib import import_module
from types import ModuleType

def window(package, shown):
    "`__getattr__`, `__dir__` and `__all__` of a package: `shown` is relative module -> names"
    home = {name: module for module, names in shown.items() for name in names.split()}

    def load(name):
        if name not in home:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(home[name], package), name)

    def names():
        return sorted({*vars(sys.modules[package]), *home})

    return load, names, list(home)

class OneOfItsName(ModuleType):
    "A module with a function of its own name, `watch.watch`: who calls the one means the other"
    def __call__(self, *args, **kwargs):
        return getattr(self, self.__name__.rpartition('.')[2])(*args, **kwargs)

class Moved:
    "Finder and loader that make an old module name lead to the module as it is now"
    def __init__(self, package, now):
        self.now = {f'{package}.{old}': f'{package}.{new}' for old, new in now.items()}

    def find_spec(self, name, path=None, target=None):
        from importlib.machinery import ModuleSpec
        if name in self.now:
            return ModuleSpec(name, self, origin=self.now[name])

    def create_module(self, spec):
        module = import_module(spec.origin)
        self.spec = module.__spec__
        name = spec.name.rpartition('.')[2]
        if callable(getattr(module, name, None)):
            module.__class__ = OneOfItsName
        return module

    def exec_module(self, module):
        module.__spec__ = self.spec
