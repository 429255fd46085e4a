"use strict";
(() => {
  const root = document.documentElement;
  const stored = (value) => {
    // A page opened from a file may not be allowed to remember anything.
    try {
      if (value !== undefined) localStorage.setItem("frspec-eval-theme", value);
      return localStorage.getItem("frspec-eval-theme");
    } catch {
      return null;
    }
  };
  const theme = document.getElementById("theme");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();
  label();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);

  // A click on a column's name sorts by its leading number, or by its text; what is absent goes last.
  const valueOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return text === "–" ? null : Number.isNaN(number) || column === 0 ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const sign = head.ariaSort === "descending" ? 1 : -1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.ariaSort = sign > 0 ? "ascending" : "descending";
        const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  document.getElementById("method").addEventListener("change", (event) => {
    for (const text of document.querySelectorAll("article[data-method]")) {
      text.hidden = event.target.value !== "" && text.dataset.method !== event.target.value;
    }
  });
  document.getElementById("generations").addEventListener("click", (event) => {
    const mark = event.target.closest("button.miss");
    if (!mark) return;
    mark.nextElementSibling.hidden = !mark.nextElementSibling.hidden;
    mark.setAttribute("aria-expanded", String(!mark.nextElementSibling.hidden));
  });
  document.getElementById("depths").addEventListener("change", (event) => {
    document.getElementById("generations").classList.toggle("numbers", event.target.checked);
  });
})();
