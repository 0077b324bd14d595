"""Was a notebook's own grading tampered with? build.py puts this file into every autograder, and grade.py reads it.

Two looks. `written` reads the code that was handed in, and names what no answer needs: writing into imported modules,
`exec`, a changed grader. `changed` compares the functions that the checks rely on, after the notebook has run, with
those of a fresh Python. Neither takes a point away: what they name has to be looked at by a person.

Plain Python, nothing but the standard library: it works where the notebook has spoilt everything else.
"""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

# Modules whose functions the checks use, besides all of engramlib that is loaded.
WATCHED = (
    "builtins", "collections", "copy", "functools", "hashlib", "inspect", "io", "itertools", "json", "math", "operator",
    "os", "pickle", "statistics", "subprocess", "tempfile", "typing", "unittest.mock",
    "numpy", "numpy.linalg", "torch", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.modules.linear",
    "torch.nn.modules.module", "torch.autograd", "torch._tensor",
    "otter.check.notebook", "otter.execute", "otter.execute.checker", "otter.test_files",
    "otter.test_files.abstract_test", "otter.test_files.exception_test",
)  # fmt: skip
# IPython puts its own in their place, in every notebook; the last one torch itself, once torch._dynamo is loaded.
REPLACED_BY_OTHERS = {
    "builtins.exit", "builtins.input", "builtins.open", "builtins.print", "builtins.quit", "io.open",
    "torch.manual_seed",
}  # fmt: skip
ALLOWED_IMPORTS = set(
    "__future__ abc bisect cmath collections contextlib copy dataclasses datetime decimal engramlib enum fractions "
    "functools hashlib heapq itertools json math matplotlib numbers numpy operator pandas pprint random re scipy "
    "seaborn sklearn statistics string textwrap time torch torchvision tqdm transformers typing warnings".split()
)
CALLS = {"exec", "eval", "compile", "__import__", "globals", "vars", "open", "breakpoint", "delattr", "get_ipython"}
READERS = {"load", "loadtxt", "genfromtxt", "fromfile", "memmap", "read_csv", "read_json", "read_pickle", "read_text"}
ATTRIBUTES = {
    "f_back", "f_builtins", "f_code", "f_globals", "f_locals", "gi_frame", "tb_frame", "cell_contents", "modules",
    "meta_path", "path_hooks", "__torch_function__", "__torch_dispatch__", "TorchFunctionMode", "TorchDispatchMode",
    "BaseTorchFunctionMode", "init_grading_mode",
}  # fmt: skip
HARMLESS_DUNDERS = {"__name__", "__doc__", "__version__", "__len__", "__init__", "__class__", "__file__"}
METHODS = {"__init__", "__call__", "__repr__", "__str__", "__len__", "__iter__", "__getitem__", "__post_init__",
           "__enter__", "__exit__"}  # fmt: skip
MUTATORS = set(
    "append extend insert pop remove clear update setdefault popitem sort reverse discard add copy_ zero_ fill_ mul_ "
    "add_ sub_ load_state_dict".split()
)
MAGICS = {"pip", "conda", "matplotlib", "time", "timeit", "config", "capture", "who", "whos"}


# ------------------------------------------------------------------------------------------------ what was handed in


def digest(source):
    """Tells cells apart by their text, up to the blanks at the end of lines, which an editor changes."""
    text = "\n".join(line.rstrip() for line in source.strip().split("\n"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(notebook, given=(), names=()):
    """What the code of a notebook (its JSON, as a dict) does that no answer needs: a list of sentences.

    `given` are the digests of the cells that the assignment came with: they are not read. `names` are what those cells
    make for the checks: an answer that makes them anew is named.
    """
    given, found, known = set(given), [], _Known(set(names))
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        tree = _parsed(source)
        if tree is None:
            continue
        known.imports(tree)
        if digest(source) not in given:
            reader = _Reader(known)
            reader.visit(tree)
            found += [f"cell {number}: {what}" for what in dict.fromkeys(reader.said)]
    return found


def _parsed(source):
    """The tree of what Jupyter makes of a cell; none where it is no Python, so that it cannot have run."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        text = TransformerManager().transform_cell(source)
        return compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return None


class _Known:
    """Names of a notebook: which of them are imported modules (or things out of them), which are given."""

    def __init__(self, given):
        self.given, self.imported = given, {"grader", "chapter"}

    def imports(self, tree):
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self.imported.add(alias.asname or alias.name.split(".")[0])
        for _ in range(3):  # t = torch; u = t; v = t.linalg
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Name, ast.Attribute)):
                    if _root(node.value) in self.imported:
                        self.imported |= {target.id for target in node.targets if isinstance(target, ast.Name)}
                elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, (ast.Tuple, ast.List)):
                    if any(isinstance(e, ast.Name) and e.id in self.imported for e in node.iter.elts):
                        self.imported |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}


def _root(node):
    """The name that a chain such as torch.nn.functional, or a[0].b, begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


class _Reader(ast.NodeVisitor):
    def __init__(self, known):
        self.known, self.said, self.depth = known, [], 0

    def say(self, text):
        self.said.append(text)

    # Names made inside a function or a class are its own; only `global` and the top of a cell reach the checks.
    def inside(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_FunctionDef(self, node):
        self.made(node.name)
        self.inside(node)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = inside

    def visit_ClassDef(self, node):
        self.made(node.name)
        for item in node.body:
            special = isinstance(item, ast.FunctionDef) and re.fullmatch(r"__\w+__", item.name)
            if special and item.name not in METHODS:
                self.say(f"class {node.name} has its own {item.name}")
        for base in node.bases:
            if _root(base) in {"torch", "np", "numpy", "el", "engramlib"} and ast.unparse(base).split(".")[-1] in {
                "Tensor", "ndarray", "Parameter", "Engram", "Moments"}:  # fmt: skip
                self.say(f"class {node.name} pretends to be {ast.unparse(base)}")
        self.inside(node)

    def visit_Global(self, node):
        for name in node.names:
            depth, self.depth = self.depth, 0
            self.made(name)
            self.depth = depth

    def made(self, name):
        if self.depth == 0 and name in self.known.given:
            self.say(f"makes {name} anew, which the notebook gives and the checks read")
        if self.depth == 0 and name == "grader":
            self.say("overwrites grader")

    def visit_Name(self, node):
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.made(node.id)
        elif node.id in {"__builtins__", "__loader__", "__spec__"}:
            self.say(f"uses {node.id}")
        elif node.id in CALLS:
            self.say(f"uses {node.id}")

    def visit_Import(self, node):
        for alias in node.names:
            self.imported(alias.name)
            self.made(alias.asname or alias.name.split(".")[0])

    def visit_ImportFrom(self, node):
        self.imported(node.module or "")
        for alias in node.names:
            self.made(alias.asname or alias.name)
            if alias.name in ATTRIBUTES or alias.name in {"coursework", "exercises", "guard"}:
                self.say(f"imports {alias.name} from {node.module}")

    def imported(self, module):
        if module.split(".")[0] not in ALLOWED_IMPORTS:
            self.say(f"imports {module}")
        elif re.search(r"coursework|exercises\.|torch\.(overrides|utils\._python_dispatch)", module):
            self.say(f"imports {module}")

    def visit_Attribute(self, node):
        root = _root(node)
        if isinstance(node.ctx, (ast.Store, ast.Del)) and root in self.known.imported:
            self.say(f"writes to {ast.unparse(node)}")
        if node.attr in ATTRIBUTES or (re.fullmatch(r"__\w+__", node.attr) and node.attr not in HARMLESS_DUNDERS):
            self.say(f"uses {ast.unparse(node)[:60]}")
        elif root == "grader" and isinstance(node.value, ast.Name) and node.attr not in {"check", "check_all"}:
            self.say(f"uses grader.{node.attr}")
        elif node.attr in READERS and root in {"np", "numpy", "pd", "pandas", "torch", "pickle"}:
            self.say(f"reads a file with {ast.unparse(node)}")
        elif node.attr in {"coursework", "exercises"} and root in self.known.imported:
            self.say(f"uses {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Subscript(self, node):
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            if isinstance(node.value, ast.Name) and node.value.id in self.known.given:
                self.say(f"writes into {node.value.id}, which the notebook gives and the checks read")
            elif re.search(r"__dict__|sys\.modules|environ", ast.unparse(node.value)):
                self.say(f"writes into {ast.unparse(node.value)}")
        self.generic_visit(node)

    def magic(self, node):
        """%time and the like are harmless, and what they run is read; %run, %%bash and !ls are no answer."""
        what, words = node.func.attr, [a.value if isinstance(a, ast.Constant) else "" for a in node.args]
        if what == "run_cell_magic" and words[0] in {"time", "timeit", "capture"}:
            inner = _parsed(words[2])
        elif what == "run_line_magic" and words[0] in {"time", "timeit"}:
            inner = _parsed(words[1])
        elif what == "run_line_magic" and words[0] in MAGICS | {"pinfo", "pinfo2", "psearch"}:
            return
        elif what in {"system", "getoutput"} and re.match(r"\s*(pip|nvidia-smi)\b[\w\s.=<>\[\]@:/+\"'-]*$", words[0]):
            return
        else:
            self.say(f"runs {' '.join(map(str, words))[:60]!r}, which is no Python")
            return
        if inner is not None:
            self.known.imports(inner)
            self.visit(inner)

    def visit_Call(self, node):
        what = node.func
        if isinstance(what, ast.Attribute) and isinstance(what.value, ast.Call):
            if isinstance(what.value.func, ast.Name) and what.value.func.id == "get_ipython":
                return self.magic(node)
        if isinstance(what, ast.Name) and what.id in {"setattr", "getattr"} and node.args:
            fixed = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if what.id == "setattr" and _root(node.args[0]) in self.known.imported:
                self.say(f"writes to {ast.unparse(node)[:60]}")
            elif fixed and (node.args[1].value in ATTRIBUTES or re.fullmatch(r"__\w+__", str(node.args[1].value))):
                self.say(f"uses {ast.unparse(node)[:60]}")
        if isinstance(what, ast.Attribute) and what.attr in MUTATORS and isinstance(what.value, ast.Name):
            if what.value.id in self.known.given:
                self.say(f"calls {ast.unparse(what)}, which changes what the notebook gives and the checks read")
        if isinstance(what, ast.Attribute) and re.match(r"set_default|set_printoptions", what.attr) is None:
            if what.attr in {"patch", "setattr", "monkeypatch"}:
                self.say(f"calls {ast.unparse(what)[:60]}")
        self.generic_visit(node)


# ------------------------------------------------------------------------------------------- what the notebook left


def fingerprint(modules):
    """What the functions of these modules are: "module.name" -> a short text. Values that are none are left out."""
    found = {}
    for module in modules:
        here = sys.modules.get(module)
        if here is None:
            continue
        found[module] = type(here).__name__
        for name, value in sorted(vars(here).items()):
            if not name.startswith("__") or name in ("__getattr__", "__import__", "__build_class__"):
                said = _print(value, module)
                if said:
                    found[f"{module}.{name}"] = said
    return found


def _print(value, module, depth=0):
    kind = type(value).__name__
    if kind == "function":
        inner = ""
        if depth < 3:  # a wrapper is what it wraps
            cells = [_content(cell) for cell in value.__closure__ or ()]
            inner = " ".join(_print(cell, module, depth + 1) or type(cell).__name__ for cell in cells)
            defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            inner += " " + " ".join(_simple(v) for v in defaults)
        return f"function {value.__module__}.{value.__qualname__} {_code(value.__code__)} {inner}".strip()
    if isinstance(value, type):
        if depth:
            return f"class {value.__module__}.{value.__qualname__}"
        if value.__module__.split(".")[0] not in ("engramlib", "torch", "otter", "numpy"):
            return f"class {value.__module__}.{value.__qualname__}"
        own = " ".join(f"{n}:{_print(v, module, 2)}" for n, v in sorted(vars(value).items()) if _print(v, module, 2))
        return f"class {value.__module__}.{value.__qualname__} {hashlib.sha256(own.encode()).hexdigest()[:16]}"
    if kind in ("staticmethod", "classmethod"):
        return f"{kind} {_print(value.__func__, module, depth + 1)}"
    if kind == "property":
        return "property " + " ".join(_print(f, module, depth + 1) or "-" for f in (value.fget, value.fset))
    if kind in ("builtin_function_or_method", "method_descriptor", "wrapper_descriptor", "getset_descriptor", "ufunc"):
        return f"{kind} {getattr(value, '__qualname__', None) or getattr(value, '__name__', '')}"
    if kind in ("_lru_cache_wrapper", "method", "partial"):
        inner = getattr(value, "__wrapped__", None) or getattr(value, "__func__", None) or getattr(value, "func", None)
        return f"{kind} {_print(inner, module, depth + 1) if inner is not None else ''}"
    if kind == "module":
        return f"module {value.__name__}"
    if callable(value):
        return f"{type(value).__module__}.{kind}"
    return _simple(value) if kind in ("float", "dtype") else None


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _simple(value):
    return repr(value) if type(value).__name__ in ("int", "float", "str", "bool", "NoneType", "dtype") else "?"


def _code(code):
    """The same for the same source: what is compiled, without where it stands."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for const in code.co_consts:
        text = _code(const) if hasattr(const, "co_code") else repr(sorted(map(repr, const))) if isinstance(
            const, frozenset) else repr(const)  # fmt: skip
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def clean(modules, source):
    """The fingerprint of the same modules in a fresh Python, which has run nothing of the notebook."""
    names = sorted(modules)
    program = f"{source}\n\nimport importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    program += f"print('FINGERPRINT ' + json.dumps(fingerprint({names!r})))\n"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory() as nowhere:  # a torch.py beside the notebook must not be imported
        done = subprocess.run(
            [sys.executable, "-"], input=program.encode(), capture_output=True, env=environment, cwd=nowhere, timeout=99
        )
    lines = [line for line in done.stdout.decode().split("\n") if line.startswith("FINGERPRINT ")]
    if not lines:
        raise RuntimeError(f"the fresh Python said: {done.stderr.decode()[-400:]}")
    return json.loads(lines[-1].removeprefix("FINGERPRINT "))


def watched():
    """The modules to compare: those that are loaded now."""
    own = {name for name in sys.modules if name.split(".")[0] == "engramlib"}
    return sorted(own | {name for name in WATCHED if name in sys.modules})


def changed(source):
    """What is not as in a fresh Python: a list of sentences. `source` is the text of this file."""
    modules = watched()
    here, fresh = fingerprint(modules), clean(modules, source)
    if "transformers" in sys.modules:  # it changes torch.nn.Module itself, in every notebook that loads a model
        fresh = {name: value for name, value in fresh.items() if not re.fullmatch(r"torch\.nn\..*\bModule", name)}
    found = [
        f"{name} is not what it is in a fresh Python"
        for name, value in fresh.items()
        if name not in REPLACED_BY_OTHERS and here.get(name) != value
    ]
    missing = [f"{name} was taken away" for name in ("torch", "numpy", "engramlib") if name not in sys.modules]
    torch = sys.modules.get("torch")
    for what in ("_len_torch_function_stack", "_len_torch_dispatch_stack"):
        length = getattr(getattr(torch, "_C", None), what, None)
        if length is not None and length() > 0:
            found.append("a mode is switched on that changes what torch's functions do")
    return missing + found
