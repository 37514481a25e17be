"""The project under one name, beside a user's own modules called config, models or training.

    from hgru_pytorch.layers.hgru import HGRU
    from hgru_pytorch.hubconf import hgru
    from hgru_pytorch.analysis.trained import load_run

The files stay where they are: ``hgru_pytorch.layers`` is the clone's ``layers/``. Where one of them
says ``from layers.circuit import …``, it gets ``hgru_pytorch.layers.circuit`` when it is imported
under this name, so that nothing of the clone's has to be on ``sys.path``.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

_HERE = Path(__file__).resolve().parent
_CLONE = _HERE / "clone"  # in an installation that is not editable
CLONE = _CLONE if _CLONE.is_dir() else _HERE.parent
NAMES = {path.stem for path in CLONE.glob("*.py")} | {
    path.parent.name for path in CLONE.glob("*/__init__.py")
}
__path__ = [str(CLONE)]


class _Imports(ast.NodeTransformer):
    """Puts this package's name before what a module imports from the clone."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level == 0 and node.module and node.module.partition(".")[0] in NAMES:
            node.module = f"{__name__}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST | list[ast.AST]:
        made: list[ast.AST] = []
        for alias in node.names:
            root = alias.name.partition(".")[0]
            if root in NAMES:
                alias.name = f"{__name__}.{alias.name}"
                if not alias.asname:  # binds the first name alone
                    made.append(ast.ImportFrom(__name__, [ast.alias(root)], 0))
            made.append(ast.Import([alias]))
        return [ast.fix_missing_locations(ast.copy_location(one, node)) for one in made]


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:  # past the bytecode kept for the other name
        tree = ast.parse(self.get_data(self.path), self.path)
        return compile(_Imports().visit(tree), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
