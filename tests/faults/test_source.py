"""What the source may not hold: code out of data, unquoted names in shells, files written past the artefact library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checks import fault, replaced

ROOT = Path(__file__).parents[2]

PAST_THE_LIBRARY = {
    "runs/unfinished.py:save": "into memory; what is written is written into a draft",
    "data/packing.py:write_even": "writes into a draft, whose path it is given",
    "data/packing.py:write_ragged": "writes into a draft, whose path it is given",
    "core/download.py:no_link": "opens the two below",
    "core/download.py:part_of": "an empty lock file",
    "core/download.py:take": "the unfinished `.part`, which no one reads before its checksum fits",
    "cli/verbs/predict.py:output": "a device or a pipe, which nothing can be renamed to",
    "workflow/doctor.py:write_seconds": "a file that only measures the disk",
    "embeddings/vectors.py:__init__": "writes into a draft, whose path it is given",
    "export/embeddings.py:write_arrays": "writes into a draft, whose folder it is given",
    "workflow/project.py:lay": "the user's own project, where nothing else is",
    "core/lock.py:created": "the lock file, which says who writes",
    "core/processor.py:remembered": "what was measured of this machine's processor, in the user's cache; no result",
    "core/scratch.py:alone": "an empty lock file for each copy",
    "core/lock.py:release_earlier_boot": "the lock file, which then says that it is released",
    "core/shards.py:join": "writes into a draft, whose path it is given",
    "embeddings/library_checkpoint.py:write": "writes into a draft, whose path it is given",
    "embeddings/teacher_checkpoint.py:write": "writes into a draft, whose path it is given",
    "core/gpu_lease.py:take": "an empty lock file for each GPU",
    "runs/folder.py:student_bytes": "into memory; what is written is written aside",
    "runs/start.py:train_alone": "opens a training, no file",
    "core/verified.py:save": "what this machine has verified, in the user's cache; no result",
}
"""Functions that open a file for writing and are not in artifacts.py or files.py, and why they may."""
GIVEN = {"aside", "draft"}
"""What they hand out to be written to."""
CODE = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "telnetlib"}
WRITERS = {"write_text", "write_bytes", "savefig", "save_pretrained", "save_file", "to_csv", "to_json", "to_parquet"}
WRITERS |= {"copyfile", "copytree", "symlink_to", "hardlink_to", "mkstemp", "NamedTemporaryFile", "open_memmap"}
MODULE_WRITERS = {("np", "save"), ("np", "savez"), ("torch", "save"), ("json", "dump"), ("yaml", "dump")}
MODULE_WRITERS |= {("shutil", "copy"), ("shutil", "move"), ("os", "replace"), ("os", "rename")}


def sources() -> list[Path]:
    return sorted((ROOT / "clipkd").rglob("*.py"))


def dotted(node: ast.AST) -> str:
    """Return a call's function as it is written: np.load, open, tar.extractall."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def constant(call: ast.Call, name: str) -> object:
    """Return the value of a keyword that is a constant, else None."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call, and the function that it stands in."""

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield inside, child
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, child.name if is_function else inside)  # type: ignore[attr-defined]

    yield from walk(tree, "")


def dangers(source: str) -> list[str]:
    """Return what in a module can run code out of data, or a shell, or be reached from outside."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"line {node.lineno}: import {name}" for name in names if name.partition(".")[0] in CODE]
        if isinstance(node, ast.Constant) and node.value in {"0.0.0.0", "::"}:
            found.append(f"line {node.lineno}: listens to everyone")
    for _, call in calls(tree):
        name = dotted(call.func)
        last = name.rpartition(".")[2]
        is_bad = (
            name in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "input"}
            or (last in {"extractall", "extract"} and "." in name)
            or (name.startswith("yaml.") and last in {"load", "load_all", "full_load", "unsafe_load"})
            or (name == "torch.load" and constant(call, "weights_only") is not True)
            or (name in {"np.load", "numpy.load"} and constant(call, "allow_pickle") is not False)
            or constant(call, "shell") is True
            or constant(call, "trust_remote_code") is True
            or last in {"HTTPServer", "ThreadingHTTPServer", "TCPServer", "create_server", "bind"}
        )
        if is_bad:
            found.append(f"line {call.lineno}: {name}")
    return found


def is_writing(call: ast.Call) -> bool:
    """Return whether a call opens a file for writing, or writes, copies or renames one."""
    name = dotted(call.func)
    module, _, last = name.rpartition(".")
    if last == "open":
        place = 1 if not module or module in {"os", "io", "gzip"} else 0
        if module in {"tarfile", "Image"}:
            return constant(call, "mode") not in {None, "r", "r|gz", "r:gz"}
        given = call.args[place] if len(call.args) > place else None
        mode = constant(call, "mode") or (given.value if isinstance(given, ast.Constant) else None)
        if module == "os":
            return not any(dotted(node) in {"os.O_RDONLY", "os.devnull"} for node in ast.walk(call))
        if mode is None:
            return given is not None or any(keyword.arg == "mode" for keyword in call.keywords)
        return bool(set(str(mode)) & set("wax+"))
    if name in {"write_text", "write_json"}:
        return False  # the artefact library's own
    if last in {"to_csv", "to_json"} and not call.args:
        return False  # without a path they return a string
    return last in WRITERS or (module, last) in MODULE_WRITERS


def writes(source: str, module: str) -> list[str]:
    """Return the functions of a module that write a file, unless into what the artefact library gave them."""
    found = []
    for function, call in calls(ast.parse(source)):
        if is_writing(call):
            names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
            if not names & GIVEN:
                found.append(f"{module}:{function}")
    return sorted(set(found))


def unquoted(rules: str) -> list[str]:
    """Return what a rules file puts into a shell without quotes; numbers that Snakemake itself makes may."""
    shells = re.findall(r"^( +)shell:\n((?:\1 +.*\n)+)", rules, re.MULTILINE)
    fields = [field for _, text in shells for field in re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", text)]
    found = [field for field in fields if not field.endswith(":q") and field not in {"threads", "resources.batch"}]
    return found + re.findall(r"^ +(?:run|script|notebook|wrapper):", rules, re.MULTILINE)


@fault("X01", "X02", "X04", "X08", **{"the-lint": replaced("tests.faults.test_source.dangers", lambda source: [])})
def test_nothing_runs_code_out_of_data() -> None:
    found = {path.name: dangers(path.read_text(encoding="utf-8")) for path in sources()}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert len(found) > 80
    for name, text in DANGEROUS.items():
        assert dangers(text), name


DANGEROUS = {
    "pickle": "import pickle",
    "from pickle": "from pickle import loads",
    "joblib": "import joblib.numpy_pickle",
    "extractall": "tar.extractall('.')",
    "extract": "tar.extract(member)",
    "shell": "subprocess.run('x', shell=True)",
    "system": "os.system('x')",
    "yaml": "yaml.load(text, Loader=yaml.Loader)",
    "unsafe yaml": "yaml.unsafe_load(text)",
    "eval": "eval(text)",
    "exec": "exec(text)",
    "torch.load": "torch.load(path)",
    "torch.load, not only weights": "torch.load(path, weights_only=False)",
    "torch.load, perhaps": "torch.load(path, weights_only=flag)",
    "np.load": "np.load(path)",
    "np.load with pickles": "np.load(path, allow_pickle=True)",
    "remote code": "AutoModel.from_pretrained(path, trust_remote_code=True)",
    "server": "HTTPServer(('', 80), Handler)",
    "everyone": "host = '0.0.0.0'",
}


@fault("M03", "R02", **{"the-lint": replaced("tests.faults.test_source.is_writing", lambda call: False)})
def test_only_the_artefact_library_writes_files() -> None:
    found = []
    for path in sources():
        module = path.relative_to(ROOT / "clipkd").as_posix()
        if module not in {"core/artifacts.py", "core/files.py"}:
            found += writes(path.read_text(encoding="utf-8"), module)
    assert sorted(found) == sorted(PAST_THE_LIBRARY)
    for name, text in WRITING.items():
        assert writes(text, "m"), name
    for text in ("np.save(draft.path / 'x.npy', a)", "open('x')", "path.open('rb')", "open(p, encoding='utf-8')"):
        assert writes(text, "m") == [], text


WRITING = {
    "open": "open('x', 'w')",
    "append": "path.open('ab')",
    "mode": "open('x', mode='r+')",
    "a mode that only running tells": "open('x', mode)",
    "os.open": "os.open('x', os.O_WRONLY | os.O_CREAT)",
    "text": "path.write_text('x')",
    "bytes": "path.write_bytes(b'x')",
    "array": "np.save('x.npy', a)",
    "torch": "torch.save(state, path)",
    "safetensors": "save_file(state, path)",
    "figure": "figure.savefig('x.png')",
    "csv": "frame.to_csv('x.csv')",
    "json": "json.dump(data, stream)",
    "copy": "shutil.copyfile(a, b)",
    "rename": "os.replace(a, b)",
    "temporary": "tempfile.NamedTemporaryFile('w')",
}


@fault("X05", **{"the-lint": replaced("tests.faults.test_source.unquoted", lambda rules: [])})
def test_nothing_goes_into_a_shell_without_quotes() -> None:
    rules = [*sorted((ROOT / "workflow").rglob("*.smk")), ROOT / "workflow/Snakefile"]
    assert {path.name: unquoted(path.read_text()) for path in rules if unquoted(path.read_text())} == {}
    assert sum(path.read_text().count(":q}") for path in rules) > 20
    for name in ("wildcards.teacher", "params.source", "input.config", "log", "output", "params[0]"):
        assert unquoted(f'rule x:\n    shell:\n        "clipkd x {{{name}}} 2> {{log:q}}"\n') == [name]
    assert unquoted("rule x:\n    run:\n        pass\n")


@pytest.mark.parametrize("name", ["README.md", "config/README.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_no_document_tells_to_open_a_port_to_everyone(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"--bind_all|--host[ =]0\.0\.0\.0|trust_remote_code=True", text)
