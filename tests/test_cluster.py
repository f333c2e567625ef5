"""Sweeps over a rack: the rows of one machine, whatever boards come and go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from pandas.testing import assert_frame_equal

from hwbench import engine
from hwbench.collect import collect
from hwbench.errors import RequestError
from hwbench.execute import Stop
from hwbench.store import Store
from tests.racks import certificates, local_rack, namespace

pytest.importorskip("distributed", reason="dask.distributed is not installed (extra cluster)")

from hwbench.execute.cluster import connect
from hwbench.execute.scheduler import Tls

NO_TLS = Tls()
LABELS = ("east", "west", "south")


def records(store):
    rows = store.read("records").to_pylist()
    return sorted(rows, key=lambda row: (row["cell"], row["pattern"], row["batch"]))


def reproducible(table):
    """A table without what differs between two runs on one machine: times and memory."""
    volatile = [name for name in table.columns if name.endswith(("_ms", "_mib", "_s"))]
    return table.drop(columns=volatile)


class Joined:
    """A sweep on a rack, in a thread of its own so that boards can be harmed meanwhile."""

    def __init__(self, rack, spec, folder, *, resume=False, patience_s=60.0, tls=NO_TLS):
        self.told, self.stop, self.folder = [], Stop(), folder
        self.client = connect(rack.address, tls, insecure=False, tell=self.told.append)
        self.client.patience_s = patience_s
        options = engine.Options(output=None if resume else folder, rack=self.client)
        silent = engine.Silent()
        self._work = (
            (lambda: engine.resume(folder, options, silent, self.stop))
            if resume
            else (lambda: engine.start(spec, options, silent, self.stop))
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
    return engine.start(spec, engine.Options(output=folder), engine.Silent(), Stop())


def places(tagged, **options):
    """An environment for each of three boards, which locally are told apart by label alone."""
    given = [{"backend": "fake", "label": each, "options": options} for each in LABELS]
    return [{**each, "tags": f"board:{each['label']}"} for each in given] if tagged else given


def slowly(rig, seconds):
    """The sweep of ``SCENARIOS``, 135 inferences of some length."""
    environment = {"backend": "fake", "options": {"slow": seconds}}
    return rig.spec(scenarios=SCENARIOS, environments=[environment])


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
    told, expected = collect(found), collect(local)
    for table in ("cells", "drift", "interaction", "vulnerability"):
        assert_frame_equal(reproducible(told[table]), reproducible(expected[table]))
    used = [each["boards"] for each in found.read_json("machines.json").values()]
    assert set().union(*used) == {*LABELS, "west-2", "east-late"}


def test_without_a_board_that_suits_jobs_stay_open_and_resume(rig, tmp_path):
    local = run_here(rig.spec(scenarios=SCENARIOS), tmp_path / "local")
    spec = slowly(rig, 0.05)
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("first")
        going = Joined(rack, spec, tmp_path / "there", patience_s=1.0)
        going.wait_for(lambda: going.parts() > 2 and rack.jobs("first"))
        rack.kill("first")
        stopped = going.done()
        assert going.stop
        assert "no board that suits is left" in going.told[-1]
        before = records(stopped)
        assert 0 < len(before) < len(records(local))
        rack.board("second")
        found = run_on(rack, None, tmp_path / "there", resume=True)
    assert records(found) == records(local)


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_reaches_the_boards(rig, tmp_path, times):
    spec = slowly(rig, 0.2)
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("a")
        going = Joined(rack, spec, tmp_path / "there")
        going.wait_for(lambda: going.parts() > 2 and rack.jobs("a"))
        for _ in range(times):
            going.stop.request()
        stopped = going.done(20)
        end = time.monotonic() + 10
        while rack.jobs("a"):
            assert time.monotonic() < end, "the board goes on"
            time.sleep(0.1)
        assert len(records(stopped)) < 60
        last = stopped.read("processes").to_pylist()[-1]
        assert times == 2 or last["message"] == "the sweep was stopped"


@pytest.mark.slow
def test_boards_stop_when_the_sweep_is_killed(rig, tmp_path):
    spec = slowly(rig, 0.1)
    (tmp_path / "spec.yaml").write_text(json.dumps(spec.model_dump(exclude_none=True)))
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("a")
        folder = tmp_path / "there"
        asked = ["--executor", "dask", "--scheduler", rack.address, "--json"]
        command = [sys.executable, "-m", "hwbench", "sweep"]
        killed = subprocess.Popen(
            [*command, "spec.yaml", "-o", folder, *asked], cwd=tmp_path, env=dict(os.environ)
        )
        end = time.monotonic() + 60
        while len(list((folder / "records").glob("*.parquet"))) < 3:
            assert killed.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        while rack.jobs("a"):
            assert time.monotonic() < end, "the board goes on"
            time.sleep(0.1)
        rest = [*command, "--resume", folder, *asked]
        subprocess.run(rest, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=120)
    local = run_here(rig.spec(scenarios=SCENARIOS), tmp_path / "local")
    assert records(Store.open(folder)) == records(local)


def refusal(rack, spec, folder):
    with pytest.raises(RequestError) as caught:
        run_on(rack, spec, folder)
    assert not folder.exists()
    return caught.value.line()


def test_what_a_rack_cannot_do_is_refused_before_it_begins(rig, tmp_path):
    tagged = rig.spec(environments=[{"backend": "fake", "tags": ["gpu", "board:jetson"]}])
    folder = tmp_path / "there"
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        assert "no board is connected" in refusal(rack, tagged, folder)
        rack.board("a", "board:pi")
        line = refusal(rack, tagged, folder)
        assert "no board has tags board:jetson, gpu" in line and "boards have: board:pi" in line
        rack.board("wide", slots=2)
        assert "board wide: has 1 threads and 2 slots" in refusal(rack, rig.spec(), folder)
    with pytest.raises(RequestError, match="is meant for a board with tags"):
        run_here(tagged, folder)
    assert not folder.exists()


def test_a_sweep_ends_in_one_line_when_its_scheduler_dies(rig, tmp_path):
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("a")
        going = Joined(rack, slowly(rig, 0.05), tmp_path / "there")
        going.wait_for(lambda: going.parts() > 2 and rack.jobs("a"))
        rack.kill("scheduler")
        with pytest.raises(RequestError, match=r"the scheduler is gone.*--resume"):
            going.done(60)
        assert records(Store.open(tmp_path / "there"))
        end = time.monotonic() + 30
        while rack.jobs("a"):
            assert time.monotonic() < end, "the board goes on"
            time.sleep(0.1)


@pytest.mark.slow
def test_two_sweeps_share_a_rack(rig, tmp_path):
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        rack.board("a")
        both = [Joined(rack, slowly(rig, 0.02), tmp_path / name) for name in ("one", "two")]
        one, two = (records(each.done()) for each in both)
    assert len(one) == 135
    assert one == two


def test_a_scheduler_that_repeats_jobs_is_refused(tmp_path):
    with local_rack(
        tmp_path, variables={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}
    ) as rack:
        rack.scheduler()
        with pytest.raises(RequestError, match="allowed-failures: 3"):
            connect(rack.address, Tls(), insecure=False)


def test_latency_is_timed_on_the_boards(rig, tmp_path):
    latency = {"processes": 2, "min_duration_s": 0.05, "warmup_s": 0.01}
    spec = rig.spec(environments=places(True)[:2], scenarios=["clean"], latency=latency)
    with local_rack(tmp_path) as rack:
        rack.scheduler()
        for label in LABELS[:2]:
            rack.board(label, f"board:{label}")
        found = run_on(rack, spec, tmp_path / "there")
    timed = [row for row in found.read("processes").to_pylist() if row["kind"] == "latency"]
    assert {(row["environment"], row["block"], row["outcome"]) for row in timed} == {
        (f"fake-cpu-fp32-t1-{label}", block, "ok") for label in LABELS[:2] for block in range(2)
    }
    assert found.read("latency").num_rows == 4


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl tool is not installed")
def test_with_tls_only_certificates_of_the_authority_come_in(rig, tmp_path):
    ours, other = certificates(tmp_path, "ours"), certificates(tmp_path, "other")

    def tls(home, *, certified=True):
        own = (str(home / "cert.pem"), str(home / "key.pem")) if certified else ()
        return Tls(str(home / "ca.pem"), *own)

    extra = ["--protocol", "tls", "--tls-ca-file", ours / "ca.pem"]
    extra += ["--tls-cert", ours / "cert.pem", "--tls-key", ours / "key.pem"]
    with local_rack(tmp_path, extra=extra) as rack:
        assert rack.scheduler().startswith("tls://")
        rack.board("a")
        for wrong in (Tls(), tls(ours, certified=False), tls(other)):
            with pytest.raises(RequestError, match="no scheduler answers"):
                connect(rack.address, wrong, insecure=True)
        with pytest.raises(RequestError, match="no scheduler answers"):
            connect(rack.address.replace("tls:", "tcp:"), Tls(), insecure=True)
        found = run_on(rack, rig.spec(), tmp_path / "there", tls=tls(ours))
    assert records(found) == records(run_here(rig.spec(), tmp_path / "local"))


@contextmanager
def networks(count):
    """Network namespaces, or a skipped test."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    with ExitStack() as opened:
        try:
            yield [opened.enter_context(namespace(number)) for number in range(1, count + 1)]
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")


@pytest.mark.slow
def test_boards_on_networks_of_their_own_may_be_cut_off(rig, tmp_path):
    spec = rig.spec(scenarios=SCENARIOS, environments=places(True, slow=0.1))
    quick = {
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s",
    }
    with networks(3) as wires, local_rack(tmp_path, variables=quick) as rack:
        rack.scheduler(host="0.0.0.0")
        for label, wire in zip(LABELS, wires, strict=True):
            rack.board(label, f"board:{label}", prefix=wire.prefix, host=wire.host)
        going = Joined(rack, spec, tmp_path / "there")
        going.wait_for(lambda: going.parts() > 3 and rack.jobs("west"))
        wires[1].cut()  # west, in mid-trial
        rack.kill("south")
        going.wait_for(lambda: "board west is gone" in going.told)
        for label in ("west", "south"):
            rack.board(f"{label}-2", f"board:{label}", prefix=wires[0].prefix, host=wires[0].host)
        found = going.done()
    local = run_here(rig.spec(scenarios=SCENARIOS, environments=places(False)), tmp_path / "local")
    assert records(found) == records(local)
