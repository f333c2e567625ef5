"""Sweeps over a rack: the rows of one machine, whatever boards come and go."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from hwbench import sweep
from hwbench.errors import RequestError
from hwbench.execute import Stop
from tests.racks import local_rack

pytest.importorskip("distributed", reason="dask.distributed is not installed (extra cluster)")

from hwbench.execute.cluster import connect
from hwbench.execute.scheduler import Tls

LABELS = ("east", "west", "south")


def records(store):
    rows = store.read("records").to_pylist()
    return sorted(rows, key=lambda row: (row["cell"], row["pattern"], row["batch"]))


class Joined:
    """A sweep on a rack, in a thread of its own so that boards can be harmed meanwhile."""

    def __init__(self, rack, spec, folder, *, resume=False, patience_s=60.0):
        self.told, self.stop, self.folder = [], Stop(), folder
        self.client = connect(rack.address, Tls(), insecure=False, tell=self.told.append)
        self.client.patience_s = patience_s
        options = sweep.Options(output=None if resume else folder, rack=self.client)
        silent = sweep.Silent()
        self._work = (
            (lambda: sweep.resume(folder, options, silent, self.stop))
            if resume
            else (lambda: sweep.start(spec, options, silent, self.stop))
        )
        self.store = self.error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.store = self._work()
        except RequestError as error:
            self.error = error
        finally:
            self.client.close()

    def wait_for(self, what, timeout_s=60):
        """Until ``what()`` holds while the sweep runs."""
        end = time.monotonic() + timeout_s
        while not what():
            assert self._thread.is_alive() and time.monotonic() < end, self.error or self.told
            time.sleep(0.02)

    def parts(self):
        """How often records have been committed so far."""
        return len(list((self.folder / "records").glob("*.parquet")))

    def done(self, timeout_s=120):
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error
        return self.store


def run_on(rack, spec, folder, **options):
    return Joined(rack, spec, folder, **options).done()


def run_here(spec, folder):
    return sweep.start(spec, sweep.Options(output=folder), sweep.Silent(), Stop())


def places(tagged, **options):
    """An environment for each of three boards, which locally are told apart by label alone."""
    given = [{"backend": "fake", "label": each, "options": options} for each in LABELS]
    return [{**each, "tags": f"board:{each['label']}"} for each in given] if tagged else given


SCENARIOS = [
    {"noise": {"snr_db": [10, 0]}, "patterns": 12},
    {"bitflip": {"rate": 0.005}, "patterns": 20},
]


def test_a_rack_gives_the_rows_of_one_machine(rig, tmp_path):
    local = run_here(rig.spec(), tmp_path / "local")
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("a")
        found = run_on(rack, rig.spec(), tmp_path / "there")
    assert records(found) == records(local)
    ran = found.read("processes").to_pylist()
    known = found.read_json("machines.json")
    assert {row["machine"] for row in ran} == set(known)
    assert [list(each["boards"]) for each in known.values()] == [["a"]]
    assert list((tmp_path / "a.cache" / "rack" / "jobs").iterdir()) == []


def test_boards_killed_stalled_and_late_lose_and_repeat_nothing(rig, tmp_path):
    changes = {"scenarios": SCENARIOS}
    local = run_here(rig.spec(environments=places(False), **changes), tmp_path / "local")
    spec = rig.spec(environments=places(True, slow=0.1), **changes)
    with local_rack(tmp_path, variables={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s"}) as rack:
        rack.scheduler()
        for label in LABELS:
            rack.board(label, f"board:{label}")
        rack.board("west-2", "board:west")
        going = Joined(rack, spec, tmp_path / "there")
        going.wait_for(lambda: going.parts() > 3 and rack.jobs("east") and rack.jobs("west"))
        rack.running["west"].send_signal(signal.SIGSTOP)  # its connection stays, and is silent
        rack.kill("east")  # in mid-trial, the only one of its tags
        going.wait_for(lambda: "board east is gone" in going.told)
        rack.board("east-late", "board:east")
        going.wait_for(lambda: "board west is gone" in going.told)
        rack.running["west"].send_signal(signal.SIGCONT)  # it goes on, and is heard no more
        found = going.done()
    assert records(found) == records(local)
    used = [each["boards"] for each in found.read_json("machines.json").values()]
    assert set().union(*used) == {*LABELS, "west-2", "east-late"}
