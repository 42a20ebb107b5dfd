"""Which names of NVIDIA's bindings our source touches: found by walking its syntax tree, not by a list of our own."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

ENGINES = Path(__file__).resolve().parents[2] / "src" / "edgeship" / "engines"
RETURNS = {
    "Builder": "Builder",
    "OnnxParser": "OnnxParser",
    "Runtime": "Runtime",
    "create_network": "INetworkDefinition",
    "create_builder_config": "IBuilderConfig",
    "create_optimization_profile": "IOptimizationProfile",
    "create_timing_cache": "ITimingCache",
    "get_timing_cache": "ITimingCache",
    "create_execution_context": "IExecutionContext",
    "create_engine_inspector": "EngineInspector",
    "deserialize_cuda_engine": "ICudaEngine",
    "get_plugin_registry": "IPluginRegistry",
    "get_layer": "ILayer",
    "get_input": "ITensor",
    "get_output": "ITensor",
    "get_error": "ParserError",
}
"""Vendor call → the class of what it returns."""
FIELDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "engine": "ICudaEngine",
    "runtime": "Runtime",
    "_context": "IExecutionContext",
    "trt": "",
}
"""Attributes of our own objects that hold vendor objects: ``parsed.builder``, ``self._context``."""
OPERATIONS = ("name", "value")
"""Attributes of any enum member."""


@dataclass(frozen=True)
class Use:
    """One name of the vendor's that a line touches; ``count`` positional and ``keywords`` arguments if it is called."""

    path: str
    where: str
    count: int | None = None
    keywords: tuple[str, ...] = ()


@dataclass
class _Walker(ast.NodeVisitor):
    file: str
    uses: list[Use] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])
    calls: dict[int, ast.Call] = field(default_factory=dict)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        known = {}
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            annotation = argument.annotation
            if isinstance(annotation, ast.BinOp):
                annotation = annotation.left
            if argument.arg == "trt":
                known["trt"] = ""
            elif argument.arg in FIELDS and isinstance(annotation, ast.Name) and annotation.id == "Any":
                known[argument.arg] = FIELDS[argument.arg]
            elif isinstance(annotation, ast.Attribute) and _name(annotation.value) == "trt":
                known[argument.arg] = annotation.attr
                self._use(annotation.attr, node)
        self.scopes.append({**self.scopes[-1], **known})
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(names)
            for name, value in zip(names, values, strict=False):
                if isinstance(name, ast.Name):
                    self._bind(name.id, value)

    def _bind(self, name: str, value: ast.expr) -> None:
        if isinstance(value, ast.Call) and _name(value.func) == "create" and name in FIELDS:
            self.scopes[-1][name] = FIELDS[name]
            return
        kind = self.kind(value.elt if isinstance(value, ast.ListComp) else value)
        if kind is not None:
            self.scopes[-1][name] = f"list:{kind}" if isinstance(value, ast.ListComp) else kind
        else:
            self.scopes[-1].pop(name, None)

    def visit_For(self, node: ast.For) -> None:
        self._element(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._element(node.target, node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.scopes.append(dict(self.scopes[-1]))
        for generator in node.generators:
            self.visit(generator)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in parts:
            self.visit(part)
        self.scopes.pop()

    def _element(self, target: ast.expr, source: ast.expr) -> None:
        kind = self.scopes[-1].get(source.id, "") if isinstance(source, ast.Name) else ""
        if isinstance(target, ast.Name):
            if kind.startswith("list:"):
                self.scopes[-1][target.id] = kind.removeprefix("list:")
            else:
                self.scopes[-1].pop(target.id, None)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            self.calls[id(node.func)] = node
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.kind(node.value)
        if owner is not None and not owner.startswith("list:"):
            path = f"{owner}.{node.attr}" if owner else node.attr
            if not (owner.count(".") and node.attr in OPERATIONS) and "__" not in path:
                self._use(path, node, self.calls.get(id(node)))
        self.generic_visit(node)

    def _use(self, path: str, node: ast.AST, call: ast.Call | None = None) -> None:
        where = f"{self.file}:{getattr(node, 'lineno', 0)}"
        count = None
        keywords: tuple[str, ...] = ()
        if call is not None and not any(isinstance(argument, ast.Starred) for argument in call.args):
            count = len(call.args)
            keywords = tuple(item.arg for item in call.keywords if item.arg)
        self.uses.append(Use(path, where, count, keywords))

    def kind(self, node: ast.expr) -> str | None:
        """The vendor class of an expression, ``""`` for the module itself, None for anything of ours."""
        if isinstance(node, ast.Name):
            return self.scopes[-1].get(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return RETURNS.get(node.func.attr)
        if isinstance(node, ast.Attribute):
            owner = self.kind(node.value)
            if owner is not None:
                return f"{owner}.{node.attr}" if owner else node.attr
            return FIELDS.get(node.attr)
        return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def uses_in(source: str, file: str) -> list[Use]:
    """Every name of the vendor's in one source file."""
    walker = _Walker(file)
    walker.visit(ast.parse(source))
    return walker.uses


def sources() -> dict[str, str]:
    """Our files that talk to the vendor's bindings, by name."""
    paths = [path for path in (ENGINES / "trt").glob("*.py") if path.name != "trtexec.py"]
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(paths)}


def all_uses() -> list[Use]:
    """Every name of the vendor's that edgeship touches."""
    return [use for file, source in sources().items() for use in uses_in(source, file)]
