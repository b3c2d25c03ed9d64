"""One of the processes that run the distributed cases: ``python worker.py RANK FOLDER``."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import gc
import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import harness
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

#: Shorter than a case may take, so that a process left alone in a collective tells where.
COLLECTIVE_LIMIT = datetime.timedelta(seconds=20)


def end_with_parent() -> None:
    """End this process when the one that started it is gone."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held at the end of the interpreter
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def join(store: dist.Store, number: int, rank: int) -> None:
    """Join a new process group."""
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(f"group{number}", store),
        rank=rank,
        world_size=harness.WORLD,
        timeout=COLLECTIVE_LIMIT,
    )


def leave() -> None:
    """Leave the process group, so that a process that waits in it for this one fails at once.

    Where a DDP model still holds the group it fails after the limit of a collective instead.
    """
    gc.collect()  # a network of the case that failed may hold the group
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
    with contextlib.suppress(Exception):  # or later cases would meet the old group in there
        _clear_sharding_prop_cache()


def attempt(function: Callable[[], None]) -> str:
    """Run a case and return what went wrong; its frames are gone by then."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function()
    except BaseException:  # an interrupt that came through is a failure too
        return traceback.format_exc()
    return ""


def main(rank: int, folder: Path) -> None:
    """Run the cases in order; after one that failed on any rank, start with a new group."""
    torch.set_num_threads(1)
    end_with_parent()
    cases = harness.load()
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    store = dist.FileStore(str(folder / "store"), harness.WORLD)
    store.set_timeout(datetime.timedelta(seconds=harness.CASE_LIMIT))
    groups = 0
    join(store, groups, rank)
    with (folder / f"results{rank}").open("w", encoding="utf-8") as results:
        for name in names:
            faulthandler.dump_traceback_later(harness.CASE_LIMIT, exit=True)
            start = time.monotonic()
            torch.manual_seed(rank)
            error = attempt(cases[name])
            if error:
                leave()
            store.set(f"{name}/{rank}", "failed" if error else "good")
            others = {store.get(f"{name}/{r}") for r in range(harness.WORLD)}
            results.write(json.dumps([name, error, time.monotonic() - start]) + "\n")
            results.flush()
            if others != {b"good"}:
                leave()
                groups += 1
                join(store, groups, rank)
    faulthandler.cancel_dump_traceback_later()
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
