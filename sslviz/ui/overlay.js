export default function (component) {
  const { data, parentElement } = component;
  const root = parentElement.querySelector(".overlay");
  const canvas = root.querySelector("canvas");
  canvas.width = canvas.height = data.side;
  canvas.setAttribute("aria-label", data.alt);
  const controls = root.querySelector(".controls");
  const state = (root.state ??= { opacity: 70, off: new Set() });
  const layers = [["image", data.image], ["heat", data.heat], ...data.outlines.map((o) => [o.name, o.url])];
  const pictures = {};
  const turn = (root.turn = (root.turn ?? 0) + 1); // pictures that load late belong to a render that is over
  delete canvas.dataset.drawn;

  const draw = () => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, data.side, data.side);
    for (const [name] of layers) {
      if (!pictures[name] || state.off.has(name)) continue;
      pen.imageSmoothingEnabled = name === "image";
      pen.globalAlpha = name === "heat" ? state.opacity / 100 : 1;
      pen.drawImage(pictures[name], 0, 0, data.side, data.side);
    }
    pen.globalAlpha = 1;
    canvas.dataset.drawn = layers.map(([name]) => name).filter((name) => pictures[name] && !state.off.has(name)).join(" ");
    canvas.dataset.opacity = state.opacity;
  };

  const control = (text, input) => {
    const label = document.createElement("label");
    label.append(input, text);
    return label;
  };
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: state.opacity });
  slider.onkeydown = (event) => event.stopPropagation(); // the page steps through images with the arrow keys
  slider.oninput = () => {
    state.opacity = Number(slider.value);
    draw();
  };
  const boxes = data.outlines.map((outline) => {
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: !state.off.has(outline.name) });
    box.onchange = () => {
      state.off[box.checked ? "delete" : "add"](outline.name);
      draw();
    };
    const label = control(`${outline.name} outline`, box);
    label.style.setProperty("--ink", outline.colour);
    return label;
  });
  controls.replaceChildren(control("heat", slider), ...boxes);

  let left = layers.length;
  for (const [name, url] of layers) {
    const picture = new Image();
    picture.onload = () => {
      if (root.turn !== turn) return;
      pictures[name] = picture;
      if (--left === 0) draw();
    };
    picture.src = url;
  }
}
