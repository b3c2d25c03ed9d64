"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const config = {
  displaylogo: false,
  displayModeBar: "hover",
  responsive: true,
  showSendToCloud: false, // plotly's own default is a button that uploads the figure
};

/** The widest layout that fits; each comes with the width from which it does. */
function fitting(layouts, width) {
  return layouts.reduce((best, [from, layout]) => (from <= width ? layout : best), layouts[0][1]);
}

/** Draw a figure, or draw it anew where another layout fits; in between plotly stretches it. */
async function draw(place) {
  const { data, layouts } = figures[place.dataset.figure];
  const layout = fitting(layouts, place.clientWidth);
  if (place.chosen === layout) return;
  place.chosen = layout;
  try {
    // Plotly writes into the layout it is given, and this one may be wanted again.
    await Plotly.react(place, data, structuredClone(layout), config);
  } catch (error) {
    failed();
    console.error(error);
    place.textContent = "This figure could not be drawn.";
  }
}

const places = document.querySelectorAll(".plot");
places.forEach(draw);
addEventListener("resize", () => places.forEach(draw));
