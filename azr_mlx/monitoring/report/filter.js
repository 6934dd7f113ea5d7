"use strict";
// Filters the table of samples. Without this script all rows are visible and the form is hidden.
const form = document.getElementById("filter");
if (form) {
  const rows = [...document.querySelectorAll(".samples tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const names = ["role", "kind", "verdict", "step"];
  const apply = () => {
    const text = form.elements.text.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = names.every((n) => ["", row.dataset[n]].includes(form.elements[n].value));
      row.hidden = !(fits && texts[i].includes(text));
      shown += !row.hidden;
    });
    form.querySelector("output").textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
