"""The suite every backend must pass, in five lines of the author's own test file.

    from hwbench.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        backend = MyBackend

Expectations are not written by hand: outputs are compared with NumPy's (``onnx.reference``), and
every capability with what ``probe`` declares, strictly: a declared gap that works fails too.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hwbench import edits
from hwbench.backend import (
    MODEL_FORMATS,
    PRECISIONS,
    Array,
    Artifact,
    Backend,
    Capability,
    Environment,
    ModelSource,
    Session,
    Site,
)
from hwbench.edits import Edits, Op
from hwbench.errors import Unsupported
from hwbench.testing import models
from hwbench.testing.reference import ReferenceBackend

ROWS = 6
CALIBRATION_ROWS = 64

_STORED = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
}

Build = Callable[[str], Artifact]


class BackendConformance:
    """Derive from this, name the backend, collect with pytest.

    Class attributes:
        backend: the adapter's class.
        device: the device to build for.
        options: runtime options of every environment in the suite.
        precisions: names to try; those that ``probe`` does not list are skipped.
        slow_precisions: of these, marked ``slow``.
        noise: largest accepted distance from NumPy per precision, relative in the L2 norm
            (0.1 is an SQNR of 20 dB).
    """

    backend: ClassVar[type[Backend]]
    device: ClassVar[str] = "cpu"
    options: ClassVar[Mapping[str, Any]] = {}
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    slow_precisions: ClassVar[tuple[str, ...]] = ()
    noise: ClassVar[Mapping[str, float]] = {
        "fp32": 1e-4,
        "fp16": 1e-2,
        "bf16": 5e-2,
        "int8": 0.1,
        "int8-ref": 0.1,
    }

    # What a subclass may replace.

    def model_source(self, folder: Path) -> ModelSource:
        """The network of ``hwbench.testing.models``, in a form that the backend takes."""
        return models.conv_net(folder)

    # What the tests stand on.

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a precision, for the tests that ask for one."""
        if "precision" in metafunc.fixturenames:
            marks = {name: [pytest.mark.slow] for name in self.slow_precisions}
            metafunc.parametrize(
                "precision",
                [pytest.param(name, marks=marks.get(name, [])) for name in self.precisions],
            )

    @pytest.fixture(scope="class")
    @classmethod
    def artifacts(cls) -> dict[str, Artifact]:
        """Artifacts by precision, each built once a class."""
        return {}

    @pytest.fixture
    def built(
        self, artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
    ) -> Build:
        """Builds a supported precision, or gives what was built before; else skips."""

        def build(precision: str) -> Artifact:
            self._skip_unless_supported(precision)
            if precision not in artifacts:
                artifacts[precision] = self._build(precision, tmp_path_factory.mktemp("artifact"))
            return artifacts[precision]

        return build

    def _capability(self, precision: str) -> Capability:
        found = self.backend().probe().precisions.get(precision)
        if found is None:
            pytest.skip(f"{self.backend.name} knows no precision {precision}")
        return found

    def _skip_unless_supported(self, precision: str) -> None:
        capability = self._capability(precision)
        if capability.status != "supported":
            pytest.skip(f"{precision} is {capability.status}: {capability.reason}")

    def _build(self, precision: str, folder: Path, device: str | None = None) -> Artifact:
        """A fresh artifact in ``folder``, saved."""
        environment = Environment(
            self.backend.name, device or self.device, precision, 1, self.options
        )
        source = folder / "source"
        target = folder / "artifact"
        source.mkdir()
        target.mkdir()
        calibration = {models.INPUT.name: models.samples(CALIBRATION_ROWS, seed=1)}
        model = self.model_source(source)
        artifact = self.backend().build(model, environment, calibration, target)
        artifact.save()
        return artifact

    @contextmanager
    def _opened(self, artifact: Artifact) -> Iterator[Session]:
        session = self.backend().open(artifact)
        try:
            yield session
        finally:
            session.close()

    def _outputs(self, artifact: Artifact, rows: int = ROWS) -> Array:
        with self._opened(artifact) as session:
            return infer(session, models.samples(rows))

    def _corrupt(self, artifact: Artifact, changes: Edits, folder: Path) -> Artifact:
        folder.mkdir()
        return self.backend().corrupt(artifact, changes, folder)

    # The contract itself.

    def test_methods_have_the_contracts_signatures(self) -> None:
        """Callers use the base class's parameter names and kinds."""
        for name, method in inspect.getmembers(Backend, inspect.isfunction):
            if not name.startswith("_"):
                own = inspect.signature(getattr(self.backend, name)).parameters.values()
                base = inspect.signature(method).parameters.values()
                assert [(p.name, p.kind) for p in own] == [(p.name, p.kind) for p in base], name

    def test_class_says_what_it_is(self) -> None:
        """Name, formats and requirements are there for lists and hints."""
        assert self.backend.name.isidentifier()
        assert set(self.backend.accepts) <= set(MODEL_FORMATS) and self.backend.accepts
        assert all(isinstance(each, str) for each in self.backend.requires)

    def test_importing_and_constructing_import_no_runtime(self) -> None:
        """A worker pays for one runtime only, and a missing one is no error until it is used."""
        module, name = self.backend.__module__, self.backend.__qualname__
        runtimes = [each.replace("-", "_") for each in self.backend.requires]
        script = (
            f"import sys, {module}\n{module}.{name}()\n"
            f"loaded = [each for each in {runtimes} if each in sys.modules]\n"
            "sys.exit(f'imported: {loaded}' if loaded else 0)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def test_probe_is_complete(self) -> None:
        """Devices are named, and each gap has its reason in one line."""
        probe = self.backend().probe()
        assert probe.version and self.device in probe.devices
        assert any(each.status == "supported" for each in probe.precisions.values())
        for name, capability in {**probe.precisions, **probe.features}.items():
            assert capability.status in ("supported", "unsupported", "unknown"), name
            assert capability.reason or capability.status == "supported", name
            assert "\n" not in capability.reason, name

    def test_every_gap_is_real(self, precision: str, tmp_path: Path) -> None:
        """What is declared unsupported is refused, with the reason declared."""
        capability = self._capability(precision)
        if capability.status != "unsupported":
            pytest.skip(f"{precision} is {capability.status}")
        with pytest.raises(Unsupported) as raised:
            self._build(precision, tmp_path)
        assert raised.value.reason == " ".join(capability.reason.split())

    def test_unknown_precision_is_unsupported(self, tmp_path: Path) -> None:
        """A name that nobody knows is refused, not replaced."""
        with pytest.raises(Unsupported):
            self._build("fp31", tmp_path)

    def test_unknown_device_is_unsupported(self, tmp_path: Path) -> None:
        """A device that is not there is refused, not replaced."""
        with pytest.raises(Unsupported):
            self._build("fp32", tmp_path, device="cuda:99")

    # Building and running.

    def test_shapes_follow_the_batch(self, precision: str, built: Build) -> None:
        """A free batch dimension takes any number of rows."""
        for rows in (1, ROWS):
            outputs = self._outputs(built(precision), rows)
            assert outputs.shape == (rows, models.CLASSES)
            assert outputs.dtype == np.float32

    def test_outputs_are_numpys(self, precision: str, built: Build, tmp_path: Path) -> None:
        """Within the precision's noise of an independent implementation."""
        outputs = self._outputs(built(precision))
        expected = _reference(tmp_path)
        distance = np.linalg.norm(outputs - expected) / np.linalg.norm(expected)
        assert distance < self.noise.get(precision, 0.1)

    def test_runs_repeat_to_the_byte(self, precision: str, built: Build) -> None:
        """Within a session and across sessions."""
        with self._opened(built(precision)) as session:
            first, second = (infer(session, models.samples(ROWS)) for _ in range(2))
        assert first.tobytes() == second.tobytes() == self._outputs(built(precision)).tobytes()

    def test_outputs_belong_to_the_caller(self, precision: str, built: Build) -> None:
        """Writing into a result, or running again, changes no other result."""
        with self._opened(built(precision)) as session:
            first = infer(session, models.samples(ROWS))
            kept = first.copy()
            infer(session, models.samples(ROWS, seed=9))
            assert first.tobytes() == kept.tobytes()
            first[:] = 0
            assert infer(session, models.samples(ROWS)).tobytes() == kept.tobytes()

    def test_building_repeats(self, precision: str, built: Build, tmp_path: Path) -> None:
        """The same sites with the same stored bits."""
        backend, once, again = self.backend(), built(precision), self._build(precision, tmp_path)
        assert list(backend.sites(once)) == list(backend.sites(again))
        assert _contents(backend, once) == _contents(backend, again)

    def test_saved_artifact_is_the_artifact(self, precision: str, built: Build) -> None:
        """Another process opens it from its folder alone."""
        artifact = built(precision)
        again = Artifact.load(artifact.folder)
        # An adapter's own JSON may come back with lists for tuples.
        assert replace(again, meta={}) == replace(artifact, meta={})
        assert self._outputs(again).tobytes() == self._outputs(artifact).tobytes()

    def test_actual_reports_the_weights_operators(self, precision: str, built: Build) -> None:
        """Both convolutions and the last layer, with how each is stored and executed."""
        with self._opened(built(precision)) as session:
            infer(session, models.samples(ROWS))
            actual = session.actual
        assert actual.version == self.backend().probe().version
        assert actual.threads in (1, None)
        assert len(actual.ops) == 3
        assert all(op.op_type and op.stored and op.executed for op in actual.ops)
        weights = [site for site in self.backend().sites(built(precision)) if site.kind == "weight"]
        assert {op.stored for op in actual.ops} == {_STORED[site.dtype] for site in weights}

    # Faults.

    def test_sites_are_in_order(self, precision: str, built: Build) -> None:
        """Unique, not empty, described as stored, sorted by their consumer."""
        artifact = built(precision)
        sites = list(self.backend().sites(artifact))
        assert len({site.name for site in sites}) == len(sites)
        assert [site.order for site in sites] == sorted(site.order for site in sites)
        assert sum(site.kind == "weight" for site in sites) == 3
        for site in sites:
            stored = self.backend().stored(artifact, site.name)
            assert site.size > 0 and stored.shape == site.shape
            assert stored.dtype == ("uint16" if site.dtype == "bfloat16" else site.dtype)

    def test_a_flip_lands_in_its_bit_only(
        self, precision: str, built: Build, tmp_path: Path
    ) -> None:
        """Of each kind of site; every other site and the original files stay as they were."""
        artifact = built(precision)
        before, files = _contents(self.backend(), artifact), _files(artifact.folder)
        for number, site in enumerate(_one_of_each(list(self.backend().sites(artifact)))):
            flip = _flip(site)
            faulted = self._corrupt(artifact, flip, tmp_path / str(number))
            expected = edits.apply(self.backend().stored(artifact, site.name), flip)
            assert _contents(self.backend(), faulted) == {**before, site.name: expected.tobytes()}
            assert before[site.name] != expected.tobytes()
        assert _files(artifact.folder) == files

    def test_every_operation_is_carried_out(
        self, precision: str, built: Build, tmp_path: Path
    ) -> None:
        """Flip, set, clear and write, on neighbouring elements of one weight."""
        artifact = built(precision)
        site = _weight(list(self.backend().sites(artifact)))
        elements = np.arange(site.size)
        changes = edits.make((site.name,), 0, elements, 1, elements % len(Op))
        faulted = self._corrupt(artifact, changes, tmp_path / "faulted")
        expected = edits.apply(self.backend().stored(artifact, site.name), changes)
        assert self.backend().stored(faulted, site.name).tobytes() == expected.tobytes()

    def test_a_flip_twice_is_the_identity(
        self, precision: str, built: Build, tmp_path: Path
    ) -> None:
        """Stored bits and outputs, to the byte."""
        artifact = built(precision)
        flip = _flip(_weight(list(self.backend().sites(artifact))))
        once = self._corrupt(artifact, flip, tmp_path / "once")
        twice = self._corrupt(once, flip, tmp_path / "twice")
        assert _contents(self.backend(), twice) == _contents(self.backend(), artifact)
        assert self._outputs(twice).tobytes() == self._outputs(artifact).tobytes()

    def test_what_is_loaded_is_what_is_corrupted(
        self, precision: str, built: Build, tmp_path: Path
    ) -> None:
        """With any layer's weights at zero, outputs are no longer the same."""
        artifact = built(precision)
        clean = self._outputs(artifact).tobytes()
        for number, site in enumerate(self.backend().sites(artifact)):
            if site.kind == "weight":
                zero = edits.make((site.name,), 0, np.arange(site.size), 0, Op.WRITE)
                faulted = self._corrupt(artifact, zero, tmp_path / str(number))
                assert self._outputs(faulted).tobytes() != clean, site.name

    def test_no_edits_change_nothing(self, precision: str, built: Build, tmp_path: Path) -> None:
        """The empty pattern is the clean model."""
        artifact = built(precision)
        same = self._corrupt(artifact, edits.none(), tmp_path / "same")
        assert self._outputs(same).tobytes() == self._outputs(artifact).tobytes()

    def test_live_is_as_declared(self, precision: str, built: Build) -> None:
        """Refused where declared so; else it changes outputs and takes itself back."""
        artifact = built(precision)
        features = self.backend().probe().features
        # A gap of one precision is declared as "live:int8".
        general = features.get("live", Capability("unknown"))
        declared = features.get(f"live:{precision}", general)
        site = _weight(list(self.backend().sites(artifact)))
        zero = edits.make((site.name,), 0, np.arange(site.size), 0, Op.WRITE)
        with self._opened(artifact) as session:
            clean = infer(session, models.samples(ROWS)).tobytes()
            if declared.status != "supported":
                with pytest.raises(Unsupported):
                    session.live(zero)
                return
            session.live(zero)
            assert infer(session, models.samples(ROWS)).tobytes() != clean
            session.live(edits.none())
            assert infer(session, models.samples(ROWS)).tobytes() == clean


def infer(session: Session, rows: Array) -> Array:
    """The only output for ``rows`` of the only input."""
    return session.run({session.inputs[0].name: rows})[session.outputs[0].name]


def _reference(folder: Path) -> Array:
    """NumPy's outputs of the network."""
    backend = ReferenceBackend()
    artifact = backend.build(models.conv_net(folder), Environment("reference"), None, folder)
    return infer(backend.open(artifact), models.samples(ROWS))


def _contents(backend: Backend, artifact: Artifact) -> dict[str, bytes]:
    """The stored bytes of every site."""
    names = [site.name for site in backend.sites(artifact)]
    return {name: backend.stored(artifact, name).tobytes() for name in names}


def _files(folder: Path) -> dict[str, str]:
    """Content hash of every file of an artifact."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _one_of_each(sites: list[Site]) -> list[Site]:
    """The last site of each kind."""
    return list({site.kind: site for site in sites}.values())


def _weight(sites: list[Site]) -> Site:
    return next(site for site in sites if site.kind == "weight")


def _flip(site: Site) -> Edits:
    """The lowest bit of the middle element: a number that every runtime still loads."""
    return edits.make((site.name,), 0, site.size // 2, 1)
