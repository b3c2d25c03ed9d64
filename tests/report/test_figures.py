"""What plotly is told to draw, layer by layer."""

import itertools
import math
import re
from typing import get_args

import pytest

from thalweg.report.figures import COLOURS, MARKERS, MODES, figure
from thalweg.report.ticks import labels
from thalweg.results import Axes, Chart, Contours, Heat, Line
from thalweg.results.drawn import Points, Role


def drawn(*layers, **changed):
    return figure(Chart([Axes("title", "x", "y", list(layers), **changed)], "caption"))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * part**2.2 for w, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_every_role_has_a_colour_and_a_marker_of_its_own():
    assert set(COLOURS) == set(MARKERS) == set(get_args(Role))
    assert set(MODES) == set(get_args(Points))
    assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(COLOURS)


def test_powers_get_darker_as_they_grow():
    tones = [luminance(COLOURS[f"p={p}"]) for p in ("0", "0.25", "0.5", "1", "2")]
    assert all(paler > 1.4 * darker for paler, darker in itertools.pairwise(tones))


def test_a_name_and_role_is_listed_once_and_an_empty_name_never():
    axes = Axes("a", "x", "y", [Line([1], [1], "SAM", "p=1"), Line([1], [1], "", "p=0")])
    other = Axes("b", "x", "y", [Line([2], [2], "SAM", "p=1"), Line([1], [1], "SAM", "p=2")])
    data = figure(Chart([axes, other], ""))["data"]
    assert [trace["showlegend"] for trace in data] == [True, False, False, True]
    assert data[0]["legendgroup"] == data[2]["legendgroup"] != data[3]["legendgroup"]


def test_a_band_is_closed_and_leaves_out_what_is_missing():
    line = Line([1, 2, 3, 4], [1, 2, 3, 4], low=[0, 1, None, 3], high=[2, 3, None, 5])
    band, _ = drawn(line)["data"]
    assert band["fill"] == "toself"
    assert band["x"] == [1, 2, 2, 1, 1, None, 4, 4, 4, None]
    assert band["y"] == [2, 3, 1, 0, 2, None, 5, 3, 5, None]


def test_a_band_stays_positive_on_a_log_axis():
    line = Line([1, 2], [0.1, 0.2], low=[-1, 0.05], high=[0.2, 0.3])
    band, _ = drawn(line, y_log=True)["data"]
    assert band["y"] == [0.2, 0.3, 0.05, 0.05, 0.2, None]


def test_cells_without_a_value_are_drawn_and_named_diverged():
    cells, gone = drawn(Heat([1, 2], [1, 2], [[0.5, None], [None, None]], "z", 0, 1))["data"]
    assert gone["name"] == "diverged"
    assert gone["showlegend"]
    assert gone["z"] == [[None, 1], [1, 1]]
    assert cells["coloraxis"] == "coloraxis"
    assert len(drawn(Heat([1, 2], [1], [[0.5, 1]], "z", 0, 1))["data"]) == 1


def test_states_are_named_in_the_legend_and_have_no_colour_bar():
    states = Heat([1, 2], [1, 2], [[0, 2], [2, None]], "state", 0, 2, ["rest", "<b>", "chaos"])
    found = drawn(states)
    # Of what there is no cell, nothing is said.
    assert [trace["name"] for trace in found["data"]] == ["rest", "chaos", "diverged"]
    assert [trace["z"] for trace in found["data"]] == [
        [[1, None], [None, None]],
        [[None, 1], [1, None]],
        [[None, None], [None, 1]],
    ]
    tones = [trace["colorscale"][0][1] for trace in found["data"]]
    assert len(set(tones)) == 3
    assert luminance(tones[0]) > 2 * luminance(tones[1])
    for _, layout in found["layouts"]:
        assert layout["showlegend"]
        assert not any(key.startswith("coloraxis") for key in layout)
    wide = drawn(Heat([1, 2], [1], [[0.0, 1.0]], "z", 0, 1))["layouts"][0][1]["margin"]["r"]
    assert found["layouts"][0][1]["margin"]["r"] < wide


def test_a_map_of_states_leaves_the_others_their_colour_bar():
    numbers = Heat([1, 2], [1, 2], [[0, 1]] * 2, "z", 0, 1)
    states = Heat([1, 2], [1, 2], [[0, 1]] * 2, "state", 0, 1, ["rest", "<b>"])
    panels = [Axes("", "x", "y", [heat]) for heat in (states, numbers)]
    made = figure(Chart(panels, ""))
    assert [trace.get("name") for trace in made["data"]] == ["rest", "&lt;b&gt;", None]
    assert made["data"][-1]["coloraxis"] == "coloraxis2"
    for _, layout in made["layouts"]:
        assert [key for key in layout if key.startswith("coloraxis")] == ["coloraxis2"]


def test_a_map_fills_its_frame_on_both_kinds_of_axis():
    heat = Heat([1, 2, 3], [0.1, 1.0, 10.0], [[0] * 3] * 3, "z", 0, 1)
    for _, layout in drawn(heat, y_log=True)["layouts"]:
        assert layout["xaxis"]["range"] == [0.5, 3.5]
        assert layout["yaxis"]["range"] == pytest.approx([-1.5, 1.5])


def test_ranges_are_in_data_units_and_impossible_ones_are_left_out():
    line = Line([1, 10], [1, 10])
    wanted = {"x_log": True, "y_log": True, "x_range": (0.1, 100.0), "y_range": (0.0, 1.0)}
    layout = drawn(line, **wanted)["layouts"][0][1]
    assert layout["xaxis"]["range"] == [-1, 2]
    assert "range" not in layout["yaxis"]


@pytest.mark.parametrize("same", [True, False])
def test_one_colour_bar_where_the_scales_agree(same):
    maps = [
        Axes("", "x", "y", [Heat([1, 2], [1, 2], [[0, 1]] * 2, "z", 0, top)])
        for top in (1, 1 if same else 2)
    ]
    for _, layout in figure(Chart(maps, ""))["layouts"]:
        assert sum(key.startswith("coloraxis") for key in layout) == (1 if same else 2)


def test_contours_are_neither_listed_nor_labelled():
    (trace,) = drawn(Contours([0, 1], [0, 1], [[4.0, None], [5.0, 8.0]]))["data"]
    assert trace["z"] == [[0.0, None], [1.0, 2.0]]
    assert not trace["showlegend"]
    assert not trace["showscale"]
    assert not trace["contours"]["showlabels"]


@pytest.mark.parametrize("count", range(1, 9))
def test_axes_stand_in_rows_of_three_at_most_and_never_overlap(count):
    axes = [Axes("title " * 9, "x", "y", [Line([1], [1], "SAM")]) for _ in range(count)]
    layouts = figure(Chart(axes, ""))["layouts"]
    assert [width for width, _ in layouts] == sorted(width for width, _ in layouts)
    for (width, layout), fit in zip(layouts, (1, 2, 3), strict=True):
        boxes = []
        for key, axis in layout.items():
            if key.startswith("xaxis"):
                boxes.append((axis["domain"], layout[key.replace("x", "y", 1)]["domain"]))
        assert len(boxes) == count
        assert len({x[0] for x, _ in boxes}) <= fit
        assert len({y[0] for _, y in boxes}) == math.ceil(count / fit)
        inner = width - layout["margin"]["l"] - layout["margin"]["r"]
        for i, (x, y) in enumerate(boxes):
            assert (x[1] - x[0]) * inner > 150
            for other_x, other_y in boxes[:i]:
                beside = min(abs(x[0] - other_x[1]), abs(other_x[0] - x[1])) * inner
                under = abs(other_y[0] - y[1]) * (layout["height"] - layout["margin"]["t"] - 52)
                assert beside > 60 if y == other_y else under > 60


def test_nothing_needs_webgl_and_text_is_no_markup():
    line = Line([1], [1], '<a href="http://127.0.0.1">x</a> & %{x}')
    made = figure(Chart([Axes("<b>t</b>", "<i>x</i>", "y", [line])], ""))
    assert {trace["type"] for trace in made["data"]} == {"scatter"}
    assert "&lt;a href" in made["data"][0]["name"]
    assert not re.search(r"<(?!/?b>|br>)", str(made["layouts"]))
    assert "&lt;b&gt;t&lt;/b&gt;" in made["layouts"][0][1]["annotations"][0]["text"]


def test_the_colour_bar_of_a_single_map_stands_at_it():
    curve = Line([1.0, 2.0], [1.0, 2.0], "a", "p=1")
    cells = Heat([1.0, 2.0], [1.0, 2.0], [[0.0, 1.0], [1.0, 2.0]], "kind", 0.0, 2.0)
    panels = [Axes("map", "x", "y", [cells]), Axes("lines", "x", "y", [curve])]
    for width, layout in figure(Chart(panels, "c"))["layouts"]:
        bar = layout["coloraxis"]["colorbar"]["x"]
        assert bar == layout["xaxis"]["domain"][1]
        if width > 320:
            assert bar < layout["xaxis2"]["domain"][0]


@pytest.mark.parametrize("span", [0.4, 0.7, 0.86, 0.97, 1.05, 1.2, 1.5, 1.81, 2.4, 3.1, 8, 30])
@pytest.mark.parametrize("which", ["x", "y"])
def test_a_log_axis_asks_for_labels_that_stand_apart_and_for_two_at_least(which, span):
    ends = [0.025, 0.025 * 10**span]
    wanted = {f"{which}_log": True}
    panels = [Axes("a", "x", "y", [Line(ends, ends, "a", "p=1")], **wanted) for _ in range(3)]
    for page, layout in figure(Chart(panels, "c"))["layouts"]:
        axis = layout[f"{which}axis"]
        setting = {key: axis[key] for key in ("nticks", "dtick") if key in axis}
        inner = page - layout["margin"]["l"] - layout["margin"]["r"]
        pixels = 290 if which == "y" else inner * (axis["domain"][1] - axis["domain"][0])
        found = labels(*ends, **setting)
        assert len(found) >= min(2, math.ceil(span / 0.5))
        for one, other in itertools.pairwise(found):
            room = 15 if which == "y" else 4 * (len(f"{one:g}") + len(f"{other:g}"))
            assert pixels * math.log10(other / one) / span > room


def test_an_axis_of_thousands_writes_them_out():
    for _, layout in drawn(Line([200, 20000], [1, 2]))["layouts"]:
        assert layout["xaxis"]["tickformat"] == layout["yaxis"]["tickformat"] == "~g"
