"""Methods with gates, memories and other numbers of gradients, under DDP and FSDP2."""

from __future__ import annotations

import contextlib
import copy

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from family import METHODS, base, loss_of, net
from harness import WORLD, case
from together import close, full, mine, rows, same_bits, same_on_all_ranks, shard, shared_folder
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from thalweg import SAM, Method
from thalweg.ascent import Across, Adaptive, Named

#: Of a sharded tensor every rank draws its own part of the noise.
SHARDED = [n for n in METHODS if not n.startswith("gaussian")]
STEPS = 6


def ddp(name, *, method=None, **options):
    """Return SAM and the wrapped network that it trains."""
    model = DistributedDataParallel(net(norm=False), bucket_cap_mb=1e-5, **options)
    return SAM(base(name, model), model, 0.2, method=method or METHODS[name]), model


def sharded(name):
    model = shard(net(norm=False))
    return SAM(base(name, model), model, 0.2, method=METHODS[name]), model


def alone(name, *, method=None):
    model = net(norm=False)
    return SAM(base(name, model), model, 0.2, method=method or METHODS[name]), model


def train(sam, model, part, *, steps=range(STEPS), micros=1, lazy=False):
    """Train, and return the number of gradients of every loop."""
    seen = []
    for step in steps:
        sam.optimizer.zero_grad()
        sam.optimizer.param_groups[0]["lr"] = 0.02 + 0.01 * (step % 3)
        for k in range(micros):
            which = part if isinstance(part, slice) else part(k, micros)
            waits = lazy and k < micros - 1
            count = 0
            for _ in sam.passes():
                with model.no_sync() if waits else contextlib.nullcontext():
                    (loss_of(model, step, which)() / micros).backward()
                count += 1
            seen.append(count)
        sam.optimizer.step()
    return seen


def memory_of(sam):
    """What is remembered, whole: numbers, and tensors in a fixed order."""
    memory = sam.state_dict().get("memory", {"numbers": {}, "tensors": {}})
    tensors = [t for _, held in sorted(memory["tensors"].items()) for _, t in sorted(held.items())]
    return memory["numbers"], full(tensors)


def on_all_ranks(value):
    everybody = [None] * WORLD
    dist.all_gather_object(everybody, value)
    return everybody


#: Views are the harder case: a later backward writes over them.
@case(name=("plain", "mean", "ascents", "look_back", "mixture"), view=(False,))
@case(name=tuple(METHODS), view=(True,))
def ddp_equals_one_process(name, view):
    sam, model = ddp(name, gradient_as_bucket_view=view)
    one, single = alone(name)
    assert train(sam, model, mine()) == train(one, single, slice(None))
    close(model, single, 1e-10)
    assert same_on_all_ranks(model)
    numbers, tensors = memory_of(sam)
    wanted, others = memory_of(one)
    assert numbers.keys() == wanted.keys()
    for key, value in numbers.items():
        assert abs(value - wanted[key]) <= 1e-10 * abs(wanted[key])
    close(tensors, others, 1e-10)
    assert same_on_all_ranks(tensors)


ADAPTIVE = {"adaptive": Method(gate=Adaptive(steps=20))}
ADAPTIVE["ascents"] = Method(gate=Adaptive(steps=20), ascents=2)


@case(kind=tuple(ADAPTIVE))
def a_gate_decides_alike_where_gradients_are_each_rank_s_own(kind):
    """The reduction waits for the last micro-batch: before it, ranks have norms of their own."""
    sam, model = ddp("adaptive", method=ADAPTIVE[kind])
    seen = train(sam, model, mine, steps=range(12), micros=2, lazy=True)
    assert on_all_ranks(seen) == [seen] * WORLD
    assert len(set(seen)) == 2
    assert same_on_all_ranks(model)
    numbers, _ = memory_of(sam)
    assert on_all_ranks(numbers) == [numbers] * WORLD
    # Each rank by itself would have decided otherwise.
    alones = []
    for rank in range(WORLD):
        one, single = alone("adaptive", method=ADAPTIVE[kind])
        part = lambda k, micros, rank=rank: rows(rank, k, micros)  # noqa: E731
        alones.append(train(one, single, part, steps=range(12), micros=2))
    assert alones[0] != alones[1]


@case(bad=(float("inf"), float("nan")))
def one_rank_s_overflow_leaves_all_gates_alike(bad):
    """Where the reduction waits, only one rank sees it, and none remembers that step."""
    sam, model = ddp("adaptive", method=Method(gate=Adaptive(steps=20)))
    train(sam, model, mine())
    before, _ = memory_of(sam)
    for _ in sam.passes():
        with model.no_sync():
            (loss_of(model, 7, mine())() * (bad if dist.get_rank() == 0 else 1.0)).backward()
    sam.optimizer.zero_grad()
    assert memory_of(sam)[0] == before
    seen = train(sam, model, mine, steps=range(8, 16), micros=2, lazy=True)
    assert on_all_ranks(seen) == [seen] * WORLD


@case()
def a_rank_without_a_gradient_takes_part_in_the_decision():
    sam, model = ddp("adaptive", method=Method(gate=Adaptive(steps=20)))
    train(sam, model, mine())
    for _ in sam.passes():
        with model.no_sync():
            if dist.get_rank() == 0:
                loss_of(model, 7, mine())().backward()
    numbers, _ = memory_of(sam)
    assert on_all_ranks(numbers) == [numbers] * WORLD


@case(spoilt=(0, 1), name=("mean", "previous", "look_back", "mixture"))
def a_scaler_s_overflow_on_one_rank_changes_no_memory_on_any(spoilt, name):
    model = DistributedDataParallel(net(norm=False))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    sam = SAM(base(name, model), model, 0.2, method=METHODS[name], scaler=scaler)
    for step in range(3):
        if step == 2:
            before, memory = full(model), memory_of(sam)
        for here in sam.passes():
            loss = loss_of(model, step, mine())()
            if step == 2 and here.index == spoilt and dist.get_rank() == 0:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            reached = here.index >= spoilt
        scaler.step(sam.optimizer)
        scaler.update()
        sam.optimizer.zero_grad()
    if reached:
        assert same_bits(model, before)
        assert scaler.get_scale() == 2.0
        assert memory_of(sam)[0] == memory[0]
        assert same_bits(memory_of(sam)[1], memory[1])
    assert same_on_all_ranks(memory_of(sam)[1])


@case()
def names_are_the_same_in_one_process():
    """A pattern that is bound to the start of a name."""
    method = Method(filter=Named("^0"), reuse=Across(), gate=Adaptive(steps=5))
    sam, model = ddp("named", method=method)
    one, single = alone("named", method=method)
    assert train(sam, model, mine()) == train(one, single, slice(None))
    close(model, single, 1e-10)
    plain, other = alone("plain")
    train(plain, other, slice(None))
    assert not same_bits(other, single)


@case(name=tuple(SHARDED))
def fsdp_equals_one_process(name):
    """The memory is sharded as the parameters are."""
    sam, model = sharded(name)
    one, single = alone(name)
    assert train(sam, model, mine()) == train(one, single, slice(None))
    close(model, single, 1e-9)
    assert same_on_all_ranks(model)
    memory = sam.state_dict().get("memory", {"tensors": {}})["tensors"]
    for i, held in memory.items():
        p = sam.optimizer.param_groups[0]["params"][i]
        for t in held.values():
            assert isinstance(t, DTensor)
            assert t.placements == p.placements
    close(memory_of(sam)[1], memory_of(one)[1], 1e-9)


@case(name=("mean", "previous", "look_back", "adaptive_reuse"))
def fsdp_resumes_from_a_sharded_checkpoint(name):
    """torch.distributed.checkpoint loads into what is there: one step makes the same tensors."""
    with shared_folder() as folder:
        sam, model = sharded(name)
        train(sam, model, mine(), steps=range(3))
        held = [t.to_local().clone() for t in model.parameters()]
        state = copy.deepcopy(sam.optimizer.state_dict())
        dcp.save({"sam": sam.state_dict()}, checkpoint_id=folder)
        again, resumed = sharded(name)
        train(again, resumed, mine(), steps=range(1))
        template = {"sam": again.state_dict()}
        dcp.load(template, checkpoint_id=folder)
        again.load_state_dict(template["sam"])
        with torch.no_grad():
            for p, value in zip(resumed.parameters(), held, strict=True):
                p.to_local().copy_(value)
        again.optimizer.load_state_dict(state)
        seen = train(sam, model, mine(), steps=range(3, 6))
        assert train(again, resumed, mine(), steps=range(3, 6)) == seen
        assert same_bits(model, resumed)


@case(name=("mean", "adaptive_reuse"))
def fsdp_state_goes_into_one_process_and_back(name):
    """Whole tensors are cut as the parameters are, and shards put together."""
    sam, model = sharded(name)
    train(sam, model, mine(), steps=range(3))
    one, _ = alone(name)
    one.load_state_dict(sam.state_dict())
    numbers, tensors = memory_of(sam)
    assert memory_of(one)[0] == numbers
    assert same_bits(memory_of(one)[1], tensors)
    assert not any(isinstance(t, DTensor) for t in memory_of(one)[1])
    again, _ = sharded(name)
    again.load_state_dict(one.state_dict())
    assert same_bits(memory_of(again)[1], tensors)
    held = again.state_dict()["memory"]["tensors"]
    assert all(isinstance(t, DTensor) for tensors in held.values() for t in tensors.values())


@case(name=("mean", "points", "look_back", "adaptive"))
def broken_off_on_all_ranks(name):
    """After an exception the next step is that of a run in which it never was."""
    for make in (ddp, sharded):
        sam, model = make(name)
        twin, other = make(name)
        for each, trained in ((sam, model), (twin, other)):
            train(each, trained, mine(), steps=range(2))
        memory = memory_of(sam)
        for here in sam.passes():
            loss_of(model, 9, mine())().backward()
            if here.last:
                break
        assert memory_of(sam)[0] == memory[0]
        assert same_bits(memory_of(sam)[1], memory[1])
        for each, trained in ((sam, model), (twin, other)):
            train(each, trained, mine(), steps=range(2, 4))
        assert same_bits(model, other)


assert isinstance(net(norm=False)[1], nn.LayerNorm)  # its shards must be FSDP2's, too
