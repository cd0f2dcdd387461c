export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".gallery");
  const focused = parentElement.activeElement?.dataset?.id ?? null;
  root.style.setProperty("--side", `${data.side}px`);
  root.style.setProperty("--panels", data.panels);
  root.replaceChildren(
    ...data.items.map((item) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.id = item.id;
      button.className = item.tone;
      if (item.url) {
        const image = document.createElement("img");
        image.loading = "lazy";
        image.alt = item.alt;
        image.src = item.url;
        button.append(image);
      } else button.setAttribute("aria-label", item.alt);
      const first = document.createElement("span");
      first.textContent = item.title;
      first.className = "title";
      const second = document.createElement("span");
      second.textContent = item.detail;
      second.className = "detail";
      button.append(first, second);
      button.onclick = () => setTriggerValue("clicked", item.id);
      button.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const buttons = [...root.children];
        buttons[buttons.indexOf(button) + step]?.focus();
        event.preventDefault();
        event.stopPropagation(); // the Sample page turns its pages by these keys
      };
      return button;
    }),
  );
  if (focused !== null) root.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  return () => root.replaceChildren();
}
