"""Records of a monitor: the file survives kills, writers and functions get what is theirs."""

from __future__ import annotations

import json
import math

import pytest

from thalweg import ThalwegError
from thalweg.curvature.records import Lines, Record, Scalars, read_records, sinks

NAN = math.nan


def record(step, **changed):
    return Record(step=step, time=1.5, **changed).as_dict()


def same(left, right):
    return json.dumps(left) == json.dumps(right)  # nan is not itself


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "deep" / "run.jsonl"
    first = record(0, loss=0.1, curvatures=[1.0, NAN], curvature_steps=[3, 4], says=["λ \n sits"])
    second = record(7, loss=1e-300, lambda_max=NAN, nesterov=True)
    for one in (first, second):
        Lines(file)(one)
    assert same(read_records(file), [first, second])
    assert file.read_bytes().count(b"\n") == 2


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    file = tmp_path / "run.jsonl"
    Lines(file)(record(0, loss=math.inf, edge=NAN))
    raw = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert raw["loss"] is None
    assert raw["edge"] is None
    assert math.isnan(read_records(file)[0]["loss"])


def test_a_file_cut_off_anywhere_is_read_and_goes_on(tmp_path):
    whole, file = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    for step in range(2):
        Lines(whole)(record(step, says=["‖g‖"]))
    text = whole.read_bytes()
    end = text.index(b"\n")
    for cut in range(len(text)):
        file.write_bytes(text[:cut])
        # A line that lacks nothing but its end is a record.
        complete = [0] * (cut >= end) + [1] * (cut >= len(text) - 1)
        assert [r["step"] for r in read_records(file)] == complete, cut
        Lines(file)(record(9))
        assert [r["step"] for r in read_records(file)] == [*complete, 9], cut


def test_a_file_of_somebody_else_loses_nothing(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("dear diary")
    Lines(file)(record(1))
    assert file.read_text().startswith("dear diary\n")


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "a"}', "nonsense"])
def test_damage_in_the_middle_is_told_with_its_line(tmp_path, line):
    file = tmp_path / "run.jsonl"
    Lines(file)(record(0))
    file.write_text(file.read_text() + line + "\n" + file.read_text())
    with pytest.raises(ThalwegError, match="in line 2"):
        read_records(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ThalwegError, match="must be a file of a monitor's records"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(ThalwegError, match="must be a file of a monitor's records"):
        read_records(tmp_path)


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ThalwegError, match="must be writable"):
        Lines(tmp_path)(record(0))


class Writer:
    """As TensorBoard's, as far as it is asked."""

    def __init__(self):
        self.seen = []

    def add_scalar(self, tag, value, step):
        self.seen.append((tag, value, step))


def test_a_writer_gets_finite_numbers_and_the_step():
    writer = Writer()
    Scalars(writer)(record(5, loss=0.5, edge=NAN, curvatures=[1.0], nesterov=True, products=4))
    assert writer.seen == [("thalweg/loss", 0.5, 5), ("thalweg/products", 4, 5)]


def test_sinks_of_every_kind_and_several(tmp_path):
    writer, seen = Writer(), []
    found = sinks([tmp_path / "a.jsonl", str(tmp_path / "b.jsonl"), writer, seen.append])
    for sink in found:
        sink(record(3, loss=2.0))
    assert same(read_records(tmp_path / "a.jsonl"), seen)
    assert same(read_records(tmp_path / "b.jsonl"), seen)
    assert ("thalweg/loss", 2.0, 3) in writer.seen
    assert sinks(()) == []
    assert [type(sink) for sink in sinks("a.jsonl")] == [Lines]
    assert [type(sink) for sink in sinks(writer)] == [Scalars]


def test_the_name_of_a_folder_is_no_file(tmp_path):
    with pytest.raises(ThalwegError, match=r"must name a file, got .*: pass .*tb/run.jsonl'"):
        sinks(f"{tmp_path}/tb/")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", [3, None, [print, 4]])
def test_what_is_no_sink(to):
    with pytest.raises(ThalwegError, match="to must be a path"):
        sinks(to)
