// What a mouse sees by hovering, a finger sees by touching. The page is whole without this.
document.querySelectorAll("table.heat").forEach(function (table) {
  var line = table.closest("section").querySelector(".picked");
  table.addEventListener("click", function (event) {
    var cell = event.target.closest("td[title]");
    if (cell) line.textContent = cell.title;
  });
});
