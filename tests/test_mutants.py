"""Break what must not break, on purpose, one thing at a time: the tests named here must notice.

Each mutant is a copy of the packages with one expression replaced. A mutant that survives is a
hole in the tests; an expression that is no longer there is an error, so that none is lost silently.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = {"hwbench": ".", "hwbench_torch": "backends", "hwbench_onnxruntime": "backends"}
PLACES |= {"hwbench_openvino": "backends", "hwbench_scenarios": "scenarios"}


@dataclass(frozen=True)
class Mutant:
    """One break.

    Attributes:
        file: of the repository.
        right: an expression in it.
        wrong: what takes its place.
        test: that must fail, as pytest selects it.
    """

    file: str
    right: str
    wrong: str
    test: str


MUTANTS = {
    "restore: a live fault stays": Mutant(
        "backends/hwbench_torch/session.py",
        "self._weights[name].copy_(tensor)",
        "pass",
        "tests/test_torch_adapter.py::test_live_equals_corrupt_and_is_taken_back_exactly",
    ),
    "restore: patterns share golden's memory": Mutant(
        "hwbench/replay/rows.py",
        "{name: each.copy() for name, each in clean.items()}",
        "{name: each for name, each in clean.items()}",
        "tests/test_replay_onnxruntime.py tests/test_differential.py",
    ),
    "restore: the worker does not look whether a live fault went": Mutant(
        "hwbench/worker/accuracy.py",
        "if not equal(infer(bench.session, batch, batch.feeds), bench.first):",
        "if False:",
        "tests/test_replayed_sweep.py::test_a_live_fault_that_stays_is_an_error",
    ),
    "bit index: the next bit is hit": Mutant(
        "scenarios/hwbench_scenarios/stored.py",
        "np.left_shift(np.uint64(1), bit.astype(np.uint64))",
        "np.left_shift(np.uint64(1), (bit ^ 1).astype(np.uint64))",
        "tests/test_faults.py tests/test_bitflip.py",
    ),
    "bit index: the next element is hit": Mutant(
        "hwbench/edits.py",
        "carry_out.at(bits, edits.element[chosen],",
        "carry_out.at(bits, (edits.element[chosen] + 1) % bits.size,",
        "tests/test_edits.py",
    ),
    "landing: nobody reads the bits back": Mutant(
        "hwbench/worker/proof.py",
        "if not np.array_equal(first.view(np.uint8), second.view(np.uint8)):",
        "if False:",
        "tests/test_replayed_sweep.py::test_a_fault_that_does_not_land_is_an_error",
    ),
    "gate: everything passes": Mutant(
        "hwbench/replay/gate.py",
        'return "a sampled fault differs from the naive route"',
        'return ""',
        "tests/test_replay_onnxruntime.py::test_the_gate_lets_nothing_wrong_through",
    ),
    "gate: golden is not compared": Mutant(
        "hwbench/replay/gate.py",
        'return "golden is not repeated"',
        'return ""',
        "tests/test_replay_onnxruntime.py::test_the_gate_lets_nothing_wrong_through",
    ),
    "seed: it does not count": Mutant(
        "hwbench/seeds.py",
        "return cls((str(seed), canonical(dict(scenario)), str(pattern)))",
        'return cls(("0", canonical(dict(scenario)), str(pattern)))',
        "tests/test_seeds.py",
    ),
    "seed: patterns are alike": Mutant(
        "hwbench/seeds.py",
        "return np.random.Generator(np.random.Philox(key=int(self.child(*parts).hex(), 16)))",
        "return np.random.default_rng(0)",
        "tests/test_seeds.py",
    ),
    "stop rule: at twice the margin": Mutant(
        "hwbench/campaign.py",
        "(width <= 2 * self.margin)",
        "(width <= 4 * self.margin)",
        "tests/test_campaign.py tests/test_replayed_sweep.py::test_a_campaign_stops_at_its_margin",
    ),
    "stop rule: looks are free": Mutant(
        "hwbench/campaign.py",
        "return calibrated_confidence(self.margin, self.confidence, self.per_round, self.floor)",
        "return self.confidence",
        "tests/test_campaign.py",
    ),
    "stop rule: rounds need not be complete": Mutant(
        "hwbench/campaign.py",
        "if step.stops or len(outcomes) < len(assigned):",
        "if step.stops or len(outcomes) <= first:",
        "tests/test_campaign.py tests/test_replayed_sweep.py",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    for package, place in PLACES.items():
        shutil.copytree(ROOT / place / package, tmp_path / place / package)
    for folder in ("tests", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = (tmp_path / mutant.file).read_text()
    assert source.count(mutant.right) == 1, "the expression is not (or not only) there"
    assert run(tmp_path, mutant).returncode == 0, "the tests pass before the break"
    (tmp_path / mutant.file).write_text(source.replace(mutant.right, mutant.wrong))
    broken = run(tmp_path, mutant)
    assert broken.returncode == 1, f"survived:\n{broken.stdout[-2000:]}"


def run(folder: Path, mutant: Mutant) -> subprocess.CompletedProcess[str]:
    paths = [folder, folder / "backends", folder / "scenarios"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*argv, "-m", "not slow", *mutant.test.split()],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
