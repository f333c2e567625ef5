"""Exported programs (``torch.export.save``, .pt2) as files: inputs, and whether to trust them.

``torch.export.load`` is made for files that one trusts. It unpickles sample inputs and weights,
gives expressions to SymPy, which evaluates them, and looks up operators by dotted names below
``torch``. So a program is read here first, with nothing but JSON and zip, and torch is only given a
copy made of what was understood. Importing this brings no runtime.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any

from hwbench.backend import TensorSpec
from hwbench.errors import RequestError

MAX_JSON = 256 * 2**20  # bytes: a description, not weights
_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_KEPT = re.compile(
    r"models/model\.json|data/(weights|constants)/(weight_\d+|tensor_\d+|model_\w+_config\.json)"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
# What zipfile and a description of another form raise.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
}  # torch's numbers
# Sizes: symbols, numbers and functions of them. SymPy evaluates whatever it is given.
_SYMBOL = r"Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)"
_FUNCTION = (
    r"(?:Add|Mul|Pow|Integer|Rational|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where|PythonMod|Mod"
    r"|CeilToInt|FloorToInt|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat"
    r"|TruncToInt|RoundToInt|ToFloat|Identity|Max|Min|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|Eq|Ne|Not|And|Or)(?=\()"
)
_SIZE = re.compile(
    rf"(?:{_SYMBOL}|{_FUNCTION}|[su]\d+\b|\d+(?:\.\d+)?|true\b|false\b|[-+*/%(),<>=&|~ ])*"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized_decomposed|torchvision)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(?:cond|map_impl|scan|while_loop|wrap_with_\w+)"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|pos|and_|or_|not_|[lg][te]"
    r"|eq|ne)"
    r"|math\.(?:ceil|floor|trunc|sqrt)"
    r"|torch\._?sym_\w+"
)
_OBJECTS = frozenset(("as_custom_obj", "as_operator", "custom_obj"))
_FILES = ("from_file", "save", "load")  # operators that open what a program names


def signature(path: Path) -> tuple[TensorSpec, ...]:
    """The inputs a program declares, free dimensions ``None``.

    Raises:
        RequestError: no such file, no exported program, or one that holds more than a program.
    """
    with _opened(path) as archive:
        program = archive.checked()
    graph = program["graph_module"]["graph"]
    inputs = program["graph_module"]["signature"]["input_specs"]
    return tuple(
        _tensor(each["user_input"]["arg"], graph["tensor_values"], path)
        for each in inputs
        if "user_input" in each
    )


def copy_checked(path: Path, target: Path) -> None:
    """Write the program without its sample inputs, and nothing that was not looked at.

    Args:
        path: the user's file.
        target: the copy, which ``torch.export.load`` may be given.

    Raises:
        RequestError: as ``signature``.
    """
    with _opened(path) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        program = archive.checked()
        for name, entry in archive.entries.items():
            if name not in (_MODEL, _SAMPLES):
                with (
                    archive.file.open(entry) as source,
                    copy.open(f"model/{name}", "w", force_zip64=True) as sink,
                ):
                    copyfileobj(source, sink, 2**20)
        copy.writestr(f"model/{_MODEL}", json.dumps(program))
        copy.writestr(f"model/{_SAMPLES}", b"")


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    """A program's archive; whatever is wrong with the file is said in one line."""
    try:
        with zipfile.ZipFile(path) as file:
            yield _Archive(file, path)
    except FileNotFoundError:
        raise RequestError("no such file.", where=str(path), hint="check model.pt2.") from None
    except _DAMAGE as error:
        hint = "save the program again with torch.export.save."
        what = f"is no exported program ({type(error).__name__}: {error})."
        raise RequestError(what, where=str(path), hint=hint) from None


class _Archive:
    """A zip file's entries below its one folder."""

    def __init__(self, file: zipfile.ZipFile, path: Path) -> None:
        self.file = file
        self._path = path
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in file.infolist():
            name = entry.filename.partition("/")[2]
            if name in self.entries or not (name == _SAMPLES or _KEPT.fullmatch(name)):
                raise self.refused(f"holds {entry.filename!r}, which is no part of a program")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise self.refused(f"holds {entry.filename!r} compressed, as torch never does")
            self.entries[name] = entry

    def refused(self, what: str) -> RequestError:
        hint = "save the program again with torch.export.save, or give a factory (torch:)."
        return RequestError(f"{what}.", where=str(self._path), hint=hint)

    def checked(self) -> dict[str, Any]:
        """The program's description, once all of it was found harmless.

        Raises:
            RequestError: it holds objects, code, or operators that are not torch's own.
        """
        if _MODEL not in self.entries:
            raise self.refused("is no exported program (torch.export.save)")
        for name in _CONFIGS:
            if name in self.entries:
                self._check_payload(self._json(name))
        program = self._json(_MODEL)
        program["guards_code"] = []  # Python, which torch would run
        for each in _mappings(program):
            if "target" in each:
                each["metadata"] = {}  # names of functions, which torch would look up
            self._check_mapping(each)
        for symbol in program["range_constraints"]:
            if not _SIZE.fullmatch(symbol):
                raise self.refused(f"holds code where a size is expected ({symbol[:60]!r})")
        return program

    def _check_mapping(self, each: Mapping[str, Any]) -> None:
        target, size = each.get("target", "torch.sym_int"), each.get("expr_str", "1")
        if not isinstance(target, str) or not _is_operator(target):
            raise self.refused(f"calls {str(target)[:60]!r}, which is no operator that computes")
        if not isinstance(size, str) or not _SIZE.fullmatch(size):
            raise self.refused(f"holds code where a size is expected ({str(size)[:60]!r})")
        if not each.keys().isdisjoint(_OBJECTS):
            raise self.refused("holds an object that is no tensor")

    def _check_payload(self, config: dict[str, Any]) -> None:
        for name, each in config["config"].items():
            if each["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", each["path_name"]):
                raise self.refused(f"holds {name!r} as a pickle, and pickles are refused")

    def _json(self, name: str) -> dict[str, Any]:
        if self.entries[name].file_size > MAX_JSON:
            raise self.refused(f"holds {name!r} of more than {MAX_JSON >> 20} MiB")
        found = json.loads(self.file.read(self.entries[name]))
        if not isinstance(found, dict):
            raise ValueError(f"{name} is no mapping")
        return found


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside a description."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from _mappings(each)


def _is_operator(target: str) -> bool:
    return bool(_OPERATORS.fullmatch(target)) and not set(_FILES) & set(target.split("."))


def _tensor(argument: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> TensorSpec:
    """An input as data provides it."""
    if "as_tensor" not in argument:
        what = "has an input that is no tensor."
        raise RequestError(what, where=str(path), hint="export it with tensors alone.")
    name = argument["as_tensor"]["name"]
    held = values[name]
    if held["dtype"] not in _DTYPES:
        raise RequestError(f"input {name!r} has a dtype that NumPy lacks.", where=str(path))
    sizes = tuple(each.get("as_int") for each in held["sizes"])
    return TensorSpec(name, sizes, _DTYPES[held["dtype"]])
