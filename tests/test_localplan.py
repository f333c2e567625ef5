"""Workers by cores and by memory."""

from __future__ import annotations

from hwbench import localplan
from hwbench.state import State

from .test_strategy import ENVIRONMENTS, plan


def test_workers_share_the_cores(tmp_path):
    made = plan(tmp_path)
    local = localplan.planned(made, State(), free_mib=1e6, cores=6)
    assert (local.workers, local.note) == (6, "")


def test_there_are_as_few_workers_as_memory_holds(tmp_path):
    made = plan(tmp_path)
    (tmp_path / ENVIRONMENTS[1].id / "weights").write_bytes(bytes(10 << 20))
    local = localplan.planned(made, State(), free_mib=1000, cores=6)
    assert local.worker_mib == localplan.START_MIB + 10 * localplan.COPIES
    assert local.workers == 2
    assert local.note == "2 of 6 workers: one takes 390 MiB, 1000 MiB are free"
    assert localplan.planned(made, State(), free_mib=10, cores=6).workers == 1


def test_what_was_measured_replaces_the_guess(tmp_path):
    peaks = {("net", each.id): 100.0 for each in ENVIRONMENTS}
    local = localplan.planned(plan(tmp_path), State(peaks=peaks), free_mib=1000, cores=16)
    assert (local.worker_mib, local.workers) == (100.0, 8)


def test_memory_is_free_here():
    assert localplan.free_mib() > 0
