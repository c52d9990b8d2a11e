"use strict";
// Pages are sections of this file, selected by the URL fragment. An exam's images are in a JSON block that is parsed
// when its page is opened. The three windows are SVG filters over one image, so moving to a slice sets three sources.
(() => {
  const pages = [...document.querySelectorAll("section.page")];
  const opened = new Map();
  let exam = null;

  function open(number) {
    if (!opened.has(number)) {
      const section = document.getElementById(`exam-${number}`);
      const data = JSON.parse(document.getElementById(`data-${number}`).textContent);
      opened.set(number, viewer(section, data));
    }
    return opened.get(number);
  }

  function viewer(section, data) {
    const find = (query) => section.querySelector(query);
    const all = (query) => [...section.querySelectorAll(query)];
    // Without images the slider still moves along the curve, slice by slice.
    const planes = data.planes.length ? data.planes : data.p.map((_, row) => row);
    const box = find(".viewer"), slider = find(".slider"), readout = find(".readout"), cursor = find(".cursor"), curve = find(".curve");
    const slices = all("img.slice"), overlays = all("img.overlay"), lines = all("svg.lines");
    const marked = [...new Set([...data.keys, ...data.lines.map((line) => line.plane)])].sort((a, b) => a - b);
    let position = 0, showOverlay = false, showLines = true;

    slider.max = String(Math.max(0, planes.length - 1));
    const hasOverlays = Object.keys(data.overlays).length > 0;
    const button = (action) => find(`[data-act="${action}"]`);
    button("overlay").hidden = !hasOverlays;
    button("lines").hidden = data.lines.length === 0;

    function nearest(plane) {
      let best = 0;
      planes.forEach((other, index) => { if (Math.abs(other - plane) < Math.abs(planes[best] - plane)) best = index; });
      return best;
    }

    function show(index) {
      if (!planes.length) return;
      position = Math.min(planes.length - 1, Math.max(0, index));
      const plane = planes[position];
      slider.value = String(position);
      if (data.images.length) {
        const source = "data:image/jpeg;base64," + data.images[position];
        slices.forEach((image) => { image.src = source; });
      }
      const overlay = data.overlays[plane];
      overlays.forEach((image) => {
        image.hidden = !(showOverlay && overlay);
        if (!image.hidden) image.src = "data:image/png;base64," + overlay;
      });
      draw(showLines ? data.lines.filter((line) => line.plane === plane) : []);
      const x = 1000 * plane / Math.max(1, data.p.length - 1);
      cursor.setAttribute("d", `M${x} 0V100`);
      const p = data.p[plane], z = data.z[plane];
      const words = [`slice ${plane + 1} of ${data.p.length}`];
      if (z !== null) words.push(`z ${z.toFixed(1)} mm`);
      words.push(p === null ? "no probability" : `P(PE) ${p.toFixed(3)}`);
      if (marked.includes(plane)) words.push("key slice");
      if (showOverlay && !overlay) words.push("no clot map for this slice");
      slider.setAttribute("aria-valuetext", words.join(", "));
      readout.textContent = words.join(" · ");
      readout.title = String(data.sop[plane]);
    }

    function draw(chosen) {
      lines.forEach((svg) => {
        svg.replaceChildren();
        for (const line of chosen) {
          const [y0, x0, y1, x1] = line.points;
          const path = document.createElementNS(svg.namespaceURI, "path");
          path.setAttribute("d", `M${x0 + 0.5} ${y0 + 0.5}L${x1 + 0.5} ${y1 + 0.5}`);
          path.setAttribute("class", line.part);
          const text = document.createElementNS(svg.namespaceURI, "text");
          const width = svg.viewBox.baseVal.width, right = Math.max(x0, x1);
          const end = right > 0.7 * width;
          text.setAttribute("x", end ? Math.min(x0, x1) - 2 : right + 2);
          text.setAttribute("text-anchor", end ? "end" : "start");
          text.setAttribute("y", (y0 + y1) / 2 + 2);
          text.textContent = line.name;
          svg.append(path, text);
        }
      });
    }

    function toggle(action) {
      if (button(action).hidden) return;
      if (action === "overlay") showOverlay = !showOverlay; else showLines = !showLines;
      button(action).setAttribute("aria-pressed", String(action === "overlay" ? showOverlay : showLines));
      // Only key slices have a clot map: switching it on moves to the nearest of them.
      if (action === "overlay" && showOverlay && !data.overlays[planes[position]]) {
        const mapped = Object.keys(data.overlays).map(Number);
        position = nearest(mapped.reduce((a, b) => Math.abs(b - planes[position]) < Math.abs(a - planes[position]) ? b : a));
      }
      show(position);
    }

    function nextKey() {
      if (!marked.length) return;
      const later = marked.find((plane) => plane > planes[position]);
      show(nearest(later === undefined ? marked[0] : later));
    }

    function choose(name) { box.dataset.window = name; }

    slider.addEventListener("input", () => show(Number(slider.value)));
    curve.addEventListener("pointerdown", (event) => jump(event));
    curve.addEventListener("pointermove", (event) => { if (event.buttons) jump(event); });
    function jump(event) {
      const frame = curve.getBoundingClientRect();
      show(nearest((data.p.length - 1) * (event.clientX - frame.left) / frame.width));
    }
    box.addEventListener("wheel", (event) => {
      if (!event.target.closest(".stack") || !event.shiftKey) return;
      event.preventDefault();
      show(position + Math.sign(event.deltaY || event.deltaX));
    }, { passive: false });
    all("[data-choose]").forEach((element) => element.addEventListener("click", () => choose(element.dataset.choose)));
    all("[data-plane]").forEach((element) => element.addEventListener("click", () => show(nearest(Number(element.dataset.plane)))));
    button("overlay").addEventListener("click", () => toggle("overlay"));
    button("lines").addEventListener("click", () => toggle("lines"));
    button("key").addEventListener("click", nextKey);
    show(nearest(data.start));
    return { show, toggle, nextKey, choose, at: () => position, last: () => planes.length - 1 };
  }

  const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
  const WINDOW_KEYS = { 1: "pe", 2: "lung", 3: "mediastinal" };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input[type=search]");
    if (event.key === "Escape") {
      if (typing && event.target.value) { event.target.value = ""; filter(); } else { location.hash = "#list"; }
      event.preventDefault();
      return;
    }
    if (typing) return;
    if (event.key === "/" && !exam) { document.getElementById("search").focus(); event.preventDefault(); return; }
    if (!exam) return;
    const view = open(exam);
    if (event.key in STEPS) view.show(view.at() + STEPS[event.key]);
    else if (event.key === "Home") view.show(0);
    else if (event.key === "End") view.show(view.last());
    else if (event.key in WINDOW_KEYS) view.choose(WINDOW_KEYS[event.key]);
    else if (event.key === "k") view.nextKey();
    else if (event.key === "o") view.toggle("overlay");
    else if (event.key === "d") view.toggle("lines");
    else if (event.key === "n" && document.getElementById(`exam-${exam + 1}`)) location.hash = `#exam-${exam + 1}`;
    else if (event.key === "p" && exam > 1) location.hash = `#exam-${exam - 1}`;
    else return;
    event.preventDefault();
  }

  function route(first) {
    const wanted = location.hash.slice(1);
    const page = pages.find((section) => section.id === wanted) || pages[0];
    pages.forEach((section) => { section.hidden = section !== page; });
    exam = page.dataset.exam ? Number(page.dataset.exam) : null;
    document.querySelectorAll("nav [data-page]").forEach((link) => {
      if (link.dataset.page === (exam ? "list" : page.id)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
    const title = page.querySelector("h1");
    document.title = `${title.textContent} - evidence report`;
    if (exam) open(exam);
    if (first !== true) { window.scrollTo(0, 0); title.focus({ preventScroll: true }); }
  }

  function filter() {
    const words = document.getElementById("search").value.toLowerCase().split(/[\s_]+/).filter(Boolean);
    const rows = [...document.querySelectorAll(".exams tbody tr")];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.dataset.search.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = words.length ? `${shown} of ${rows.length}` : "";
    document.getElementById("none").hidden = shown > 0;
  }

  document.getElementById("search").addEventListener("input", filter);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", route);
  route(true);
})();
