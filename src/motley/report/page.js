"use strict";
(() => {
  const tip = document.getElementById("tip");
  const show = (event, text) => {
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const fits = below + tip.offsetHeight < window.innerHeight;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (fits ? below : event.clientY - tip.offsetHeight - 10) + "px";
  };
  const hide = () => { tip.hidden = true; };

  // A span's title becomes its tooltip, so that the browser does not show a second one.
  const textOf = (element) => {
    const title = element.querySelector && element.querySelector("title");
    if (title) {
      element.dataset.tip = title.textContent;
      element.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    return element.dataset.tip;
  };
  document.addEventListener("pointermove", (event) => {
    const element = event.target.closest(".lanes rect, [data-tip]");
    if (element) show(event, textOf(element));
    else if (!event.target.closest(".area")) hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = event.target.closest("[data-tip]");
    if (!element || !element.matches(":focus-visible")) return;
    const box = element.getBoundingClientRect();
    show({ clientX: box.left + box.width / 2, clientY: box.bottom - 10 }, element.dataset.tip);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("pointerleave", hide);
  document.addEventListener("scroll", hide, { passive: true });

  const picker = document.getElementById("timeline-step");
  const pick = () => {
    for (const drawing of document.querySelectorAll(".timeline"))
      drawing.hidden = drawing.dataset.step !== picker.value;
  };
  if (picker) picker.addEventListener("change", pick);

  const nearest = (points, step) => points.reduce(
    (best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
  const source = document.getElementById("loss-data");
  const data = source ? JSON.parse(source.textContent) : { train: [], validation: [] };
  const words = (loss) => loss === null ? "not finite" : loss.toFixed(4);
  for (const plot of document.querySelectorAll(".plot")) {
    const area = plot.querySelector(".area");
    const cursor = plot.querySelector(".cursor");
    const low = Number(plot.dataset.low), high = Number(plot.dataset.high);
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      const step = low + (event.clientX - box.left) / box.width * (high - low);
      const point = nearest(data.train, step);
      const check = data.validation.find((entry) => entry[0] === point[0]);
      cursor.style.left = (point[0] - low) / (high - low) * 100 + "%";
      cursor.style.display = "block";
      show(event, `step ${point[0]}: training ${words(point[1])}`
        + (check ? `, validation ${words(check[1])}` : ""));
    });
    area.addEventListener("pointerleave", () => { cursor.style.display = "none"; hide(); });
  }
})();
