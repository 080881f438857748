// Puts the chosen example into the text area.

document.getElementById("examples").addEventListener("change", (event) => {
  const sql = event.target.selectedOptions[0].dataset.sql;
  if (sql) document.getElementById("sql").value = sql;
});
