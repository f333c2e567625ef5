"""What a rack is made of, without one: files by hash, jobs as they travel, homes, addresses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hwbench import files, fingerprint
from hwbench.backend import Environment, ModelSource
from hwbench.case import Case
from hwbench.errors import RequestError
from hwbench.execute.blobs import Blobs, Hashes, tree_from
from hwbench.execute.boards import Board, home
from hwbench.execute.desk import AHEAD, MAX_LOSSES, Desk
from hwbench.execute.parcel import outputs, pack, unpack
from hwbench.execute.scheduler import Tls, check_address
from hwbench.job import AccuracyWork, BuildWork, Job, Part, Scoring
from hwbench.spec import Spec
from hwbench.trials import Trials

FAKE = Environment("fake")


@pytest.mark.parametrize(
    ("address", "insecure", "allowed"),
    [
        ("tcp://127.0.0.1:8786", False, True),
        ("tcp://[::1]:8786", False, True),
        ("localhost:8786", False, True),
        ("127.1.2.3:8786", False, True),
        ("tls://rack.example:8786", False, True),
        ("tcp://rack.example:8786", False, False),
        ("rack.example:8786", False, False),
        ("10.0.0.7:8786", False, False),
        ("ws://10.0.0.7:8786", False, False),
        ("tcp://127.0.0.1.example.org:8786", False, False),
        ("tcp://localhost@10.0.0.7:8786", False, False),
        ("tcp://10.0.0.7:8786", True, True),
    ],
)
def test_only_this_machine_is_reached_without_tls(address, insecure, allowed):
    if allowed:
        check_address(address, Tls(), insecure)
        return
    with pytest.raises(RequestError, match="runs code on every board"):
        check_address(address, Tls(), insecure)


def test_certificates_without_tls_are_refused():
    with pytest.raises(RequestError, match=r"give tls://127\.0\.0\.1:1"):
        check_address("tcp://127.0.0.1:1", Tls(ca="ca.pem"), insecure=True)


def test_a_blob_appears_whole_or_not_at_all(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"model" * 1000)
    digest, blobs = files.digest(source), Blobs(tmp_path / "blobs")
    blobs.receive(digest, "one", source.read_bytes()[:100], False)
    assert blobs.lacking([digest]) == [digest]
    with pytest.raises(ValueError, match="what arrived is not"):
        blobs.receive(digest, "one", b"damaged", True)
    assert blobs.lacking([digest]) == [digest]
    blobs.receive(digest, "two", source.read_bytes()[:100], False)
    blobs.receive(digest, "two", source.read_bytes()[100:], True)
    assert blobs.lacking([digest]) == []
    assert blobs.path(digest).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", ""])
def test_a_tree_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="no path within"):
        tree_from({"files": {name: "0" * 64}, "main": ""})


def test_a_digest_is_no_path(tmp_path):
    with pytest.raises(ValueError, match="no SHA-256"):
        Blobs(tmp_path).path("../../etc/passwd")


def test_a_changed_file_has_another_hash(tmp_path):
    hashes, path = Hashes(), tmp_path / "file"
    path.write_bytes(b"one")
    before = hashes.of(path)
    path.write_bytes(b"two!")
    assert hashes.of(path) == files.digest(path) != before


def accuracy_job(folder):
    (folder / "artifact").mkdir()
    (folder / "artifact" / "artifact.json").write_text("{}")
    (folder / "data").mkdir()
    (folder / "reference.npz").write_bytes(b"golden")
    (folder / "data" / "x.npy").write_bytes(b"rows")
    work = AccuracyWork(
        str(folder / "artifact"),
        str(folder / "data"),
        8,
        0,
        Scoring(None, True, 0.05),
        (Part(Case("clean"), Trials.of([(0, 0), (0, 1)], 2)),),
        str(folder / "golden.npz"),
        str(folder / "reference.npz"),
        sites=str(folder / "sites.json"),
    )
    return Job("model", FAKE, work, 60.0, code_path=("/home/somebody",))


def test_a_job_travels_with_its_files_and_without_code(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    job = accuracy_job(here)
    parcel = pack(job, Hashes())
    assert outputs(job) == [str(here / "golden.npz"), str(here / "sites.json")]
    inputs = [str(here / name) for name in ("artifact", "data", "reference.npz")]
    assert sorted(parcel.content["inputs"]) == inputs
    blobs = Blobs(there / "blobs")
    for digest, path in parcel.sources.items():
        blobs.receive(digest, "s", path.read_bytes(), True)
    content = json.loads(json.dumps(parcel.content))
    arrived, made = unpack(content, there / "job", blobs)
    assert arrived.code_path == ()
    assert str(here) not in json.dumps(arrived.to_json())
    assert arrived.work.parts == job.work.parts
    assert (there / "job" / "in" / "0" / "artifact.json").read_text() == "{}"
    assert set(made) == set(outputs(job))
    assert str(made[str(here / "golden.npz")]) == arrived.work.golden


def test_an_onnx_file_travels_with_its_tensors(tmp_path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    source = ModelSource("model", (), onnx=str(path))
    job = Job("m", FAKE, BuildWork(source, str(tmp_path / "artifact"), str(tmp_path)), 60.0)
    tree = pack(job, Hashes()).content["inputs"][str(path)]
    assert set(tree["files"]) == {"model.onnx", "weights.bin"}
    assert tree["main"] == "model.onnx"


MACHINE = fingerprint.machine()


def board(name, *tags, **changes):
    machine = {**MACHINE, **changes}
    return Board(f"tcp://{name}", name, frozenset(tags), machine, {"onnxruntime": "1.0"})


def test_boards_that_suit_must_be_alike():
    jetson = dataclasses.replace(FAKE, tags=("board:jetson",))
    twins = [board("a", "board:jetson"), board("b", "board:jetson", "gpu"), board("c", "board:pi")]
    assert home(jetson, twins).name == "a"
    other = board("d", "board:jetson", fingerprint="other", cpu="Another CPU")
    with pytest.raises(RequestError, match=r"a and d both suit board:jetson, but differ \(cpu: .*"):
        home(jetson, [*twins, other])
    newer = dataclasses.replace(board("e", "board:jetson"), versions={"onnxruntime": "2.0"})
    with pytest.raises(RequestError, match=r"onnxruntime: 1\.0 and 2\.0"):
        home(jetson, [*twins, newer])


def test_one_environment_on_two_boards_needs_labels():
    entries = [{"backend": "fake", "tags": tag} for tag in ("board:jetson", "board:pi")]
    with pytest.raises(RequestError, match="give one of them a label"):
        Spec(environments=entries).expand_environments()
    labelled = [{**each, "label": each["tags"][6:]} for each in entries]
    found = Spec(environments=labelled).expand_environments()
    assert [each.id for each in found] == ["fake-cpu-fp32-t1-jetson", "fake-cpu-fp32-t1-pi"]


def test_a_job_that_takes_boards_along_is_left_alone(tmp_path):
    desk = Desk([accuracy_job(tmp_path)])
    for _ in range(MAX_LOSSES):
        item = desk.take(lambda job: True)
        assert item is not None and desk.open
        desk.put_back(item, began=False)  # the board went before the job was there
        assert desk.take(lambda job: True) is item
        desk.put_back(item, began=True)
    assert not desk.open
    assert desk.given_up == [item]


def test_jobs_are_made_as_boards_ask_for_them(tmp_path):
    job, made = accuracy_job(tmp_path), []

    def many():
        for number in range(10 * AHEAD):
            made.append(number)
            yield dataclasses.replace(job, model=str(number))

    desk = Desk(many())
    assert desk.take(lambda job: True).job.model == "0"
    assert desk.take(lambda job: job.model == "2").job.model == "2"
    assert desk.take(lambda job: job.model == "1").job.model == "1"
    assert len(made) == 3
    assert desk.take(lambda job: False) is None
    assert len(made) == AHEAD + 3


def test_a_folder_that_a_library_reads_travels(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    source = ModelSource("m", (), library=f"hf:{folder}")
    job = Job("m", FAKE, BuildWork(source, str(tmp_path / "artifact"), str(tmp_path)), 60.0)
    parcel = pack(job, Hashes())
    assert list(parcel.content["inputs"]) == [str(tmp_path), str(folder)]
    blobs = Blobs(tmp_path / "blobs")
    for digest, path in parcel.sources.items():
        blobs.receive(digest, "s", path.read_bytes(), True)
    arrived, _ = unpack(json.loads(json.dumps(parcel.content)), tmp_path / "job", blobs)
    assert arrived.work.source.library == f"hf:{tmp_path / 'job' / 'in' / '1'}"
