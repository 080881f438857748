// An example to start from: its parameters become times that PostgreSQL knows.
"use strict";

document.getElementById("examples").addEventListener("change", (event) => {
  const sql = event.target.selectedOptions[0].dataset.sql;
  if (sql) document.getElementById("sql").value = sql;
});
