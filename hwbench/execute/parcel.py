"""A job as it travels: plain JSON, in which every file is a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench.execute.blobs import Blobs, Hashes, Tree, files_of, tree_from
from hwbench.files import named_in
from hwbench.job import AccuracyWork, BuildWork, Job, PrepareWork, job_from
from hwbench.model import external_files

LIBRARY = "hf:"  # before a path: a folder that a library reads


@dataclass(frozen=True)
class Parcel:
    """A job with what it needs.

    Attributes:
        content: the job, its inputs as trees and the paths of its outputs, all JSON.
        sources: where the bytes of each digest lie here.
    """

    content: Mapping[str, Any]
    sources: Mapping[str, Path]


def pack(job: Job, hashes: Hashes) -> Parcel:
    """A job with the hashes of every file that it names.

    The user's code is not sent: whoever sends code runs it on every board.
    """
    content = replace(job, code_path=()).to_json()
    inputs, sources = {}, {}
    for path in sorted(set(named_in(content["work"], LIBRARY))):
        files = _files(Path(path))
        digests = {name: hashes.of(file) for name, file in files.items()}
        main = Path(path).name if Path(path).is_file() else ""
        inputs[path] = Tree(digests, main).to_json()
        sources.update({digests[name]: file for name, file in files.items()})
    return Parcel({"job": content, "inputs": inputs, "outputs": outputs(job)}, sources)


def outputs(job: Job) -> list[str]:
    """The files and folders that a job makes."""
    work = job.work
    if isinstance(work, BuildWork):
        return [work.artifact]
    if isinstance(work, PrepareWork):
        return [work.folder]
    if isinstance(work, AccuracyWork):
        clean = any(not part.case.layers for part in work.parts)
        return [path for path in (work.golden if clean else "", work.sites) if path]
    return []


def _files(path: Path) -> dict[str, Path]:
    """What a path stands for; tensors beside an ONNX file belong to it."""
    beside = {
        each.relative_to(path.parent.resolve()).as_posix(): each
        for each in (external_files(path) if path.is_file() else [])
    }
    return {**files_of(path), **beside}


def unpack(content: Mapping[str, Any], folder: Path, blobs: Blobs) -> tuple[Job, dict[str, Path]]:
    """The job with its files laid into ``folder``, and where each of its outputs will lie.

    Args:
        content: of a parcel.
        folder: for this job alone.
        blobs: has every input.
    """
    places, made = {}, {}
    for number, path in enumerate(content["outputs"]):
        # Two folders deep: what jobs share beside their outputs stays within this job's folder.
        home = folder / "out" / str(number) / "1"
        home.mkdir(parents=True)
        places[path] = made[path] = home / Path(path).name
    for number, (path, tree) in enumerate(content["inputs"].items()):
        home = folder / "in" / str(number)
        if path in made:
            home = made[path].parent if tree["main"] else made[path]
        places[path] = blobs.lay(tree_from(tree), home)
    work = _moved(content["job"]["work"], {path: str(place) for path, place in places.items()})
    return job_from({**content["job"], "work": work}), made


def _moved(content: Any, places: Mapping[str, str]) -> Any:
    """The same with paths replaced."""
    if isinstance(content, str):
        path = content.removeprefix(LIBRARY)
        return content.removesuffix(path) + places.get(path, path)
    if isinstance(content, Mapping):
        return {key: _moved(each, places) for key, each in content.items()}
    if isinstance(content, list):
        return [_moved(each, places) for each in content]
    return content
