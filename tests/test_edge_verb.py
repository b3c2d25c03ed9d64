"""``thalweg edge``: its answers are theory's, and what it refuses it refuses in one sentence."""

import json
import re

import pytest

from thalweg import theory

BASES = {
    "": {},
    "--momentum .9": {"momentum": 0.9},
    "--momentum .9 --nesterov --weight-decay .3": {
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.3,
    },
    "--weight-decay .3 --decoupled": {"weight_decay": 0.3, "decoupled": True},
}


@pytest.mark.parametrize("options", BASES)
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_edge(command, rho, power, options):
    words = ("--lr", "0.1", "--rho", str(rho), "--grad-norm", "0.3", "--power", str(power))
    words += tuple(options.split())
    found = json.loads(command("edge", *words, "--json").out)
    base = BASES[options]
    expected, alone = theory.edge(0.1, rho, 0.3, power, **base), theory.edge(0.1, **base)
    plain = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False, "decoupled": False}
    given = {"lr": 0.1, "rho": rho, "grad_norm": 0.3, "power": power}
    assert found == {**given, **plain, **base, "edge": expected, "without_rho": alone}
    text = command("edge", *words)
    assert (text.code, text.err) == (0, "")
    first, meaning = text.out.splitlines()
    assert first == f"{expected:.6g}"
    parts = (f"bears {alone:.6g}", f"At p = {power:g}") if rho else ("Without a perturbation",)
    assert all(part in meaning for part in parts)
    assert ("gradient descent" in meaning) is (not base)
    assert ("diverges" in meaning) is (rho > 0 and power == 0)
    restless = rho > 0 and power > 0 and "weight_decay" not in base
    assert ("bounces for ever" in meaning) is (restless and power <= 1)
    assert ("never rests" in meaning) is (restless and power > 1)


@pytest.mark.parametrize("options", BASES)
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_largest_rho_and_the_largest_lr(command, power, options):
    base, size = BASES[options], ("--grad-norm", ".3", "--power", str(power), *options.split())
    rho = theory.largest_stable_rho(0.05, 3.0, 0.3, power, **base)
    lr = theory.largest_stable_eta(0.05, 3.0, 0.3, power, **base)
    free = theory.largest_stable_eta(0.0, 3.0, **base)
    for words, name, expected, alone in (
        (("--lr", ".05", "--curvature", "3"), "largest_rho", rho, theory.edge(0.05, **base)),
        (("--rho", ".05", "--curvature", "3"), "largest_lr", lr, free),
    ):
        found = json.loads(command("edge", *words, *size, "--json").out)
        assert (found[name], found["without_rho"]) == (expected, alone)
        text = command("edge", *words, *size)
        assert (text.code, text.err) == (0, "")
        first, meaning = text.out.splitlines()
        assert first == f"{expected:.6g}"
        local = "At ‖g‖ = 0.3" in meaning and "this holds for this ‖g‖ alone" in meaning
        assert local is (power > 0)
        assert (f"{alone:.6g}" in meaning) is (name == "largest_lr")


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("power", [1.5, 2.0])
def test_above_power_1_it_tells_from_where_a_bounce_attracts(command, power, momentum):
    words = ("--lr", "0.1", "--rho", "0.05", "--power", str(power), "--momentum", str(momentum))
    told = command("edge", *words).out
    curvature = float(re.search(r"only above a curvature of ([\d.]*\d)", told).group(1))
    for share, attracts in ((0.999, False), (1.001, True)):
        found = theory.bounce_multiplier(0.1, share * curvature, power, momentum=momentum)
        assert (abs(found) < 1) is attracts
    if momentum:  # under Nesterov's form that place is not known
        told = command("edge", *words, "--nesterov").out
        assert "never rests." in told
        assert "only above" not in told


def test_edge_is_that_of_sam_at_a_gradient_of_norm_1_unless_told_otherwise(command):
    assert command("edge", "--lr", ".1", "--rho", ".05").out.startswith(
        "12.3607\nAt ‖g‖ = 1, where"
    )
    usam = command("edge", "--lr", ".1", "--rho", ".05", "--power", "0").out
    assert "\nWhere the" in usam


BAD = {
    "text for a number": ("edge --lr abc --rho 0.1", "--lr must be a finite number > 0, got 'abc'"),
    "NaN": ("edge --lr nan --rho 0.1", "--lr must be a finite number > 0, got nan"),
    "infinity": ("edge --lr 0.1 --rho inf", "--rho must be a finite number >= 0, got inf"),
    "no step": ("edge --lr 0 --rho 0.1", "--lr must be a finite number > 0, got 0.0"),
    "negative rho": ("edge --lr 0.1 --rho -1", "--rho must be a finite number >= 0, got -1.0"),
    "negative rho, =": ("edge --lr .1 --rho=-1", "--rho must be a finite number >= 0, got -1.0"),
    "no gradient": ("edge --lr 1 --rho 1 --grad-norm 0", "--grad-norm must be a finite number > 0"),
    "negative power": ("edge --lr 1 --rho 1 --power -1", "--power must be a finite number >= 0"),
    "too large": (
        "edge --lr 1 --rho 1 --grad-norm 1e-200 --power 9 --json",
        "^thalweg: the answer for --lr 1 .*less extreme",
    ),
    "too small": ("edge --lr 1e-308 --rho 1e-308 --json", "less extreme"),
    "too far": ("edge --lr 1e-200 --rho 1e300", "less extreme"),
    "one of two": ("edge --lr 0.1", "two of --lr, --rho and --curvature must be given, got --lr$"),
    "none of two": ("edge", "--curvature must be given, got none$"),
    "three of two": ("edge --lr 1 --rho 1 --curvature 1", "got --lr, --rho, --curvature$"),
    "flat": ("edge --lr 0.1 --curvature 0", "--curvature must be a finite number > 0, got 0.0"),
    "too curved": (
        "edge --lr 0.1 --curvature 38 --momentum .9",
        "--curvature must be < 38, which --lr 0.1 bears without a perturbation, got 38: lower --lr",
    ),
    "as curved": ("edge --lr 0.1 --curvature 20", "--curvature must be < 20, which --lr 0.1 bears"),
    "momentum 1": ("edge --lr 1 --rho 1 --momentum 1", "--momentum must be .* < 1, got 1.0$"),
    "negative momentum": ("edge --lr 1 --rho 1 --momentum=-.1", "--momentum must be a finite"),
    "text for decay": ("edge --lr 1 --rho 1 --weight-decay x", "--weight-decay must be .* 'x'"),
    "decay too large": (
        "edge --lr 0.1 --rho 1 --weight-decay 20",
        "--weight-decay must be smaller with --lr 0.1, got 20: decay alone overshoots",
    ),
    "nesterov of nothing": ("edge --lr 1 --rho 1 --nesterov", "must be > 0 with --nesterov, got 0"),
    "no decay": ("edge --lr 1 --rho 1 --decoupled", "must be > 0 with --decoupled, got 0"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_in_a_sentence(command, kind):
    words, told = BAD[kind]
    found = command(*words.split())
    assert (found.code, found.out) == (2, "")
    assert re.search(told, found.err)
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err
