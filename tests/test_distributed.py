"""Moments across processes: the sum of one process whatever the split, and never a hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import distributed

dist = pytest.importorskip("torch.distributed")
if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch was built without gloo", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:too little data")
PATIENCE = 60.0  # seconds until a test that hangs is a failure


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 150), nn.ReLU(), nn.Linear(150, 5), nn.ReLU(), nn.Linear(5, 3))


def data(n: int = 11) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(7, 6, generator=draw) for _ in range(n)]


# ------------------------------------------------------------------------------------------ processes for the tests

# One server imports torch once and forks: a process costs a hundredth of a second, not three.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["engramlib.distributed"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _enter(job: Callable[..., Any], number: int, world: int, port: int, timeout: float, out: Any, args: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(number), WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo"
    )
    began = time.monotonic()
    try:
        with distributed.started(timeout=timeout):
            result: Any = job(number, *args)
    except Exception as error:
        result = error
    out.put((number, repr(result) if isinstance(result, Exception) else result, time.monotonic() - began))


def together(
    job: Callable[..., Any], *args: Any, world: int = 2, timeout: float = 20.0, wait_for: int | None = None
) -> dict[int, tuple[Any, float]]:
    """process -> (what it returned or raised, seconds), of those that answered; the rest are killed."""
    out, port = SERVER.SimpleQueue(), free_port()
    workers = [SERVER.Process(target=_enter, args=(job, n, world, port, timeout, out, args)) for n in range(world)]
    for worker in workers:
        worker.start()
    found: dict[int, tuple[Any, float]] = {}
    deadline = time.monotonic() + PATIENCE
    try:
        while len(found) < (world if wait_for is None else wait_for):
            assert time.monotonic() < deadline, f"it hangs; so far: {found}"
            if not out.empty():
                number, result, seconds = out.get()
                found[number] = (result, seconds)
            time.sleep(0.02)
    finally:
        for worker in workers:
            if wait_for is not None:
                worker.kill()
            worker.join(10)
    return found


def written(moments: el.Moments) -> dict[str, Any]:
    """Plain numbers, which a queue can carry, and who shares."""
    return {
        "sigma": {name: moments[name].tolist() for name in moments},
        "count": dict(moments.count),
        "error": {name: moments.error(name) for name in moments},
    }


def apart(found: dict[str, Any], wanted: el.Moments) -> float:
    """The largest difference of two Σ, relative to the largest entry; the counts have to be equal."""
    assert found["count"] == dict(wanted.count)
    return max(
        float((torch.tensor(found["sigma"][n], dtype=torch.float64) - wanted[n]).abs().max() / wanted[n].abs().max())
        for n in wanted
    )


# ------------------------------------------------------------------------------------------------ whatever the split


class Routed(nn.Module):
    """Whoever reads negative numbers goes another way; one branch shares its input with a second layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.c(x) if float(x.sum()) > 0 else self.b(x)


def _splits(number: int) -> dict[str, Any]:
    batches = data()
    uneven = [batches[:9], batches[9:], []][number]
    model = net()
    found: dict[str, Any] = {"even": written(distributed.collect(model, distributed.share(batches)))}
    found["uneven"] = written(distributed.collect(model, uneven))
    half = distributed.collect(net().double(), [b.double() for b in uneven], exact=True)
    found["double"] = written(half)
    pairs = [(x, torch.arange(7) % (1 if k < 9 else 3)) for k, x in enumerate(batches)]  # concepts that few have
    mine = [pairs[:9], pairs[9:], []][number]
    by_concept = distributed.collect(model, mine, lambda batch: batch[1])
    found["concepts"] = {c: written(m) for c, m in by_concept.items()}
    signs = [abs(x) if k % 2 else -abs(x) for k, x in enumerate(batches)]
    ways = distributed.collect(Routed(), [signs[1::2], signs[::2], []][number])
    found["ways"] = written(ways)
    found["shared"] = ways.stored("a") is ways.stored("c") and ways.stored("a") is not ways.stored("b")
    chosen = distributed.collect(model, uneven, rows=lambda x: x[:, 0] > (0 if number == 0 else 99))
    found["rows"] = written(chosen)
    found["few"] = written(distributed.collect(model, uneven, rank=12))
    local = el.collect(model, uneven) if uneven else None
    found["reduced"] = written(distributed.all_reduce(local))
    found["share"] = len(list(distributed.share(range(11))))
    return found


def test_it_is_the_sum_of_one_process_whatever_the_split() -> None:
    found = {number: result for number, (result, _) in together(_splits, world=3).items()}
    assert all(isinstance(result, dict) for result in found.values()), found
    batches, model = data(), net()
    whole = el.collect(model, batches)
    pairs = [(x, torch.arange(7) % (1 if k < 9 else 3)) for k, x in enumerate(batches)]
    concepts = el.collect_by_concept(model, pairs, lambda batch: batch[1])
    signs = [abs(x) if k % 2 else -abs(x) for k, x in enumerate(batches)]
    ways = el.collect(Routed(), signs)
    chosen = el.collect(model, batches[:9], rows=lambda x: x[:, 0] > 0)
    for result in found.values():
        assert apart(result["even"], whole) < 1e-6 and apart(result["uneven"], whole) < 1e-6
        exact = el.collect(net().double(), [b.double() for b in batches], exact=True)
        assert apart(result["double"], exact) < 1e-12
        assert set(result["concepts"]) == set(concepts) == {0, 1, 2}
        assert all(apart(result["concepts"][c], concepts[c]) < 1e-6 for c in concepts)
        assert apart(result["ways"], ways) < 1e-6 and result["shared"]
        assert apart(result["rows"], chosen) < 1e-6 and apart(result["reduced"], whole) < 1e-6
        assert result["few"]["count"] == dict(whole.count)
        for name in whole:
            gap = torch.tensor(result["few"]["sigma"][name], dtype=torch.float64) - whole[name]
            assert float(torch.linalg.matrix_norm(gap, 2)) <= result["few"]["error"][name] * 1.001 + 1e-3
        assert result["few"] == found[0]["few"]  # to the last bit on all
    assert sum(result["share"] for result in found.values()) == 11


def _wrong(number: int) -> list[str]:
    said = []

    def ask(call: Callable[[], Any]) -> None:
        try:
            said.append(f"no error: {call()}")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")

    broken = data(2)
    if number == 1:
        broken[1][0, 0] = torch.nan
    other = net()
    if number == 1:
        with torch.no_grad():
            other[0].weight += 1
    ask(lambda: distributed.collect(net(), broken))
    ask(lambda: distributed.collect(other, data(2)))
    ask(lambda: distributed.collect(net(), []))
    ask(lambda: distributed.collect(net() if number else nn.Sequential(nn.Linear(6, 4)), data(2), layers=["0"]))
    ask(lambda: distributed.collect(net(), data(2), layers=["9"] if number else ["0"]))
    ask(lambda: distributed.all_reduce(None))
    ask(lambda: distributed.collect(net(), data(3)).count)  # and afterwards it works
    return said


def test_what_is_wrong_on_one_process_is_said_by_all() -> None:
    said = {number: result for number, (result, _) in together(_wrong).items()}
    assert all(isinstance(result, list) for result in said.values()), said
    nan = "ValueError: layer '0': its input has NaN or infinite values"
    assert said[1][0] == nan and said[0][0] == f"RuntimeError: process 1: {nan}"
    for result in said.values():
        assert "layer '0': process 1 has other weights" in result[1]
        assert "no process had any" in result[2]
        assert "Σ of shape (7, 7) and, on process 1" in result[3] or "other weights" in result[3]
        assert "matches none of the layers" in result[4]
        assert "no process had any" in result[5]
        assert result[6] == "no error: {'0': 42, '2': 42, '4': 42}"


# ---------------------------------------------------------------------------------------------------- never a hang


def _dies(number: int) -> str:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return str(distributed.collect(net(), data(2), timeout=2.0))


def _dies_within(number: int) -> str:
    def batches() -> Iterator[Tensor]:
        yield from data(1)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return str(distributed.collect(net(), batches(), timeout=2.0))


def _sleeps(number: int) -> str:
    def batches() -> Iterator[Tensor]:
        yield from data(1)
        if number == 1:
            time.sleep(300)

    return str(distributed.collect(net(), batches(), timeout=1.5))


@pytest.mark.parametrize(("job", "limit"), [(_dies, 2.0), (_dies_within, 2.0), (_sleeps, 1.5)])
def test_a_process_that_dies_or_hangs_is_an_error_in_time(job: Callable[..., Any], limit: float) -> None:
    found = together(job, wait_for=1)
    ((number, (result, seconds)),) = found.items()
    assert number == 0 and "RuntimeError" in result, result
    assert "another process died or hangs" in result and f"timeout={limit:g}" in result
    assert seconds < 2 * limit + 2, seconds
    if job is not _dies:
        assert "1" in result.partition("torch says")[2], result  # which one


# --------------------------------------------------------------------------------------------------- it goes on later


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    model, batches, read = net(), data(11), []

    def until(stop: int) -> Iterator[Tensor]:
        for k, x in enumerate(batches):
            if k == stop:
                raise KeyboardInterrupt
            read.append(k)
            yield x

    with pytest.raises(KeyboardInterrupt):
        distributed.collect(model, until(7), resume=tmp_path, every=3, run="a")
    (path,) = tmp_path.iterdir()
    assert path.name == "part-0-of-1.safetensors"
    counted: list[int] = []
    handle = model[0].register_forward_pre_hook(lambda *_: counted.append(1))
    found = distributed.collect(model, until(99), resume=tmp_path, every=3, run="a")
    assert len(counted) == 11 - 6  # two pieces of three had been kept
    whole = el.collect(model, batches)
    assert all(torch.allclose(found[n], whole[n], rtol=1e-5, atol=1e-5) for n in whole) and found.count == whole.count
    counted.clear()
    again = distributed.collect(model, batches, resume=tmp_path, every=3, run="a")
    assert not counted and all(torch.equal(again[n], found[n]) for n in whole)
    handle.remove()


def test_concepts_and_rows_of_low_rank_go_on_too(tmp_path: Path) -> None:
    model = net()
    pairs = [(x, torch.arange(7) % 2) for x in data(6)]
    for how in ({}, {"rank": 10}):
        folder = tmp_path / str(len(how))
        distributed.collect(model, pairs[:4], lambda b: b[1], resume=folder, every=2, **how)
        found = distributed.collect(model, pairs, lambda b: b[1], resume=folder, every=2, **how)
        whole = el.collect_by_concept(model, pairs, lambda b: b[1])
        for c in whole:
            assert found[c].count == whole[c].count
            for name in whole[c]:
                gap = torch.linalg.matrix_norm(found[c][name] - whole[c][name], 2)
                assert float(gap) <= found[c].error(name) * 1.001 + 1e-4


def test_sums_of_another_run_are_refused(tmp_path: Path) -> None:
    model, batches = net(), data(6)
    distributed.collect(model, batches[:4], resume=tmp_path, every=2, run="a")

    def refused(
        message: str, *, of: nn.Module = model, given: list[Tensor] = batches, run: str = "a", **how: Any
    ) -> None:
        with pytest.raises(ValueError, match=message):
            distributed.collect(of, given, resume=tmp_path, every=2, run=run, **how)

    refused("of another run: its run is 'a'", run="b")
    refused("of another run: its settings", layers=["0"])
    refused("of another run: its settings", rank=3)
    refused("this run's first 4 are others", given=data(6)[::-1])
    refused("this run's first 4 are others", given=batches[:3])
    other = net()
    with torch.no_grad():
        other[2].weight *= 1.5
    refused("of another model: layer '2'", of=other)
    refused("of another model", of=nn.Sequential(nn.Linear(6, 3)))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:300])
    refused("damaged")


def test_files_of_jobs_without_a_network_merge(tmp_path: Path) -> None:
    signs = [abs(x) if k % 2 else -abs(x) for k, x in enumerate(data(8))]
    for job in range(2):
        el.collect(Routed(), signs[job::2]).save(tmp_path / f"{job}")
    found = distributed.merge(el.Moments.load(tmp_path / f"{job}") for job in range(2))
    whole = el.collect(Routed(), signs)
    assert found.count == whole.count and all(torch.allclose(found[n], whole[n]) for n in whole)
    assert set(found.identity) == set(whole.identity) and found.stored("a") is found.stored("c")
    with pytest.raises(ValueError, match="there were none"):
        distributed.merge([])


def test_alone_it_is_collect_and_says_what_is_wrong() -> None:
    model, batches = net(), data(3)
    found, whole = distributed.collect(model, batches), el.collect(model, batches)
    assert all(torch.equal(found[n], whole[n]) for n in whole)
    assert distributed.all_reduce(found) is found and (distributed.rank(), distributed.size()) == (0, 1)
    for wrong in ({"timeout": 0}, {"every": 0}, {"every": 2.5}):
        with pytest.raises(ValueError, match="timeout, every: expected"):
            distributed.collect(model, batches, **wrong)
    with pytest.raises(TypeError, match="unknown arguments: colour"):
        distributed.collect(model, batches, colour="red")
    with pytest.raises(TypeError, match="moments: expected"):
        distributed.all_reduce("moments")
    with pytest.raises(ValueError, match="no process ever called layer '2'"):
        distributed.collect(model, batches, layers=["0", "2"], forward=lambda m, x: m[0](x))
    with pytest.warns(UserWarning, match="no process ever called layer '2', '4'; it is left out"):
        distributed.collect(model, batches, forward=lambda m, x: m[0](x))


# ------------------------------------------------------------------------------------------------------ sharded models


def _sharded(number: int) -> str:
    from torch.distributed.fsdp import fully_shard

    model = net()
    fully_shard(model)
    return str(distributed.collect(model, data(1)))


def test_weights_that_are_sharded_are_refused_with_what_to_do() -> None:
    pytest.importorskip("torch.distributed.fsdp")
    found = together(_sharded)
    for result, _ in found.values():
        assert "sharded over processes" in result and "gather the full weights" in result, result


def test_a_model_of_accelerate_on_one_device_and_offloaded() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: `pip install accelerate`")
    model, batches = net(), data(3)
    whole = el.collect(model, batches)
    placed = accelerate.dispatch_model(net(), device_map={"": "cpu"}, force_hooks=True)
    found = distributed.collect(placed, batches)
    assert all(torch.allclose(found[n], whole[n]) for n in whole)
    offloaded = accelerate.cpu_offload(net(), execution_device="cpu")
    with pytest.raises(TypeError, match="offloaded by accelerate"):
        distributed.collect(offloaded, batches)


def test_the_block_of_torchrun_is_left_alone_without_it() -> None:
    with distributed.started() as number:
        assert number == 0 and not dist.is_initialized()
    code = "from engramlib import distributed\nwith distributed.started(timeout=1): pass"
    lonely = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **lonely}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode and "the processes did not all start" in done.stderr
