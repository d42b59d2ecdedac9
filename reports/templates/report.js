(function () {
  "use strict";
  function value(body, column) {
    var cell = body.querySelector('[data-col="' + column + '"]');
    var at = cell ? cell.getAttribute("data-at") : "";
    return column === "who" || column === "run" ? at : at === "" || at === null ? null : Number(at);
  }
  function sort(table, head, column) {
    var up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    Array.from(table.tBodies).sort(function (a, b) {
      var x = value(a, column), y = value(b, column);
      if (x === null || y === null) { return (x === null) - (y === null); }
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    }).forEach(function (body) { table.appendChild(body); });
  }
  document.querySelectorAll("table.verdict").forEach(function (table) {
    table.querySelectorAll("thead th[data-col]").forEach(function (head) {
      var button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.setAttribute("aria-label", "Sort by " + head.getAttribute("data-name"));
      button.textContent = "⇅";
      button.addEventListener("click", function () { sort(table, head, head.getAttribute("data-col")); });
      head.insertBefore(button, head.querySelector(".sub, .ends"));
    });
  });
})();
