// What the page says, in its reader's language; and numbers.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function say(name, values = {}) {
  return data.labels[name].replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

// The label of a method, or of every other one.
const sayOf = (name, method, values) => say(`${name}_${method}` in data.labels ? `${name}_${method}` : `${name}_other`, values);
const nameOf = (method) => data.labels[`method_${method}`] ?? method;

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e3 ? value.toPrecision(3) : value.toExponential(2);
}

function number(element, value) {
  element.textContent = short(value);
  element.title = String(value); // all digits
}
