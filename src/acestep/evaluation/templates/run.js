// Values under the pointer or the cursor keys, and the reloading of a page that follows a run. Without this script the
// charts still show their curves.
"use strict";
(() => {
  const page = document.documentElement;
  const stepsPerEpoch = Number(page.dataset.stepsPerEpoch) || 0;

  // The index of the value nearest to `wanted` in ascending `values`.
  function nearest(values, wanted) {
    let low = 0;
    let high = values.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low > 0 && wanted - values[low - 1] < values[low] - wanted ? low - 1 : low;
  }
  const written = (value) =>
    value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e6)
      ? value.toLocaleString("en", { maximumSignificantDigits: 5 })
      : value.toExponential(3);

  function build(plot) {
    const data = JSON.parse(plot.dataset.values);
    const box = plot.querySelector("svg").viewBox.baseVal;
    const grid = plot.querySelector(".grid");
    const left = grid ? grid.x1.baseVal.value : 0;
    const right = grid ? grid.x2.baseVal.value : box.width;
    const [from, to] = data.from;
    const places = [...new Set(data.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const cursor = Object.assign(document.createElement("span"), { className: "cursor", hidden: true });
    const values = Object.assign(document.createElement("div"), { className: "values", hidden: true });
    values.setAttribute("role", "status");
    plot.append(cursor, values);
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `Values of ${plot.querySelector("svg").getAttribute("aria-label").split(":")[0]}; arrow keys move`);
    let at = -1;

    function show(index) {
      at = Math.min(Math.max(index, 0), places.length - 1);
      const place = places[at];
      const share = (left + ((right - left) * (to > from ? (place - from) / (to - from) : 0.5))) / box.width;
      cursor.style.left = `${100 * share}%`;
      const epoch = stepsPerEpoch ? ` (epoch ${Math.ceil(place / stepsPerEpoch)})` : "";
      const said = [`${data.x} ${Math.round(place).toLocaleString("en")}${epoch}`];
      for (const line of data.lines) {
        // A line that ends elsewhere has nothing to say here.
        if (place < line.x[0] || place > line.x[line.x.length - 1]) continue;
        said.push(`${line.label}: ${written(line.y[nearest(line.x, place)])}`);
      }
      const reach = (to - from) / 100;
      for (const [where, label] of data.marks) if (Math.abs(where - place) <= reach) said.push(label);
      values.replaceChildren(...said.slice(0, 14).map((text) => Object.assign(document.createElement("p"), { textContent: text })));
      cursor.hidden = values.hidden = false;
      const half = share > 0.5;
      values.style.left = half ? "auto" : `calc(${100 * share}% + 10px)`;
      values.style.right = half ? `calc(${100 - 100 * share}% + 10px)` : "auto";
    }
    function hide() {
      cursor.hidden = values.hidden = true;
    }
    plot.addEventListener("pointermove", (event) => {
      const area = plot.getBoundingClientRect();
      const x = ((event.clientX - area.left) / area.width) * box.width;
      show(nearest(places, from + ((x - left) / (right - left)) * (to - from)));
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(places.length / 20));
      const target = {
        ArrowLeft: at - (event.shiftKey ? far : 1),
        ArrowRight: at + (event.shiftKey ? far : 1),
        Home: 0,
        End: places.length - 1,
      }[event.key];
      if (event.key === "Escape") hide();
      if (target === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      show(target);
      event.preventDefault();
    });
  }

  document.querySelectorAll(".plot").forEach(build);
  document.querySelectorAll(".hint").forEach((hint) => { hint.hidden = false; });
  for (const time of document.querySelectorAll("time")) {
    time.textContent = new Date(time.dateTime).toLocaleString();
  }
  // What is folded on a screen is wanted on paper.
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });

  const refresh = Number(page.dataset.refreshS) || 0;
  if (refresh) {
    setInterval(() => {
      const plays = [...document.querySelectorAll("audio")].some((audio) => !audio.paused);
      const reads = [...document.querySelectorAll(".values")].some((values) => !values.hidden);
      if (!plays && !reads) location.reload();
    }, 1000 * refresh);
  }
})();
