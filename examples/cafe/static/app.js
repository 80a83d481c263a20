// The page of the café. Text from people reaches the page through `textContent` only, never as HTML.

const find = (id) => document.getElementById(id);
const list = find("users");

// --- The keys this browser holds: {"1": "token of user 1", ...}

const tokens = {
  all: () => JSON.parse(localStorage.getItem("cafe.tokens") ?? "{}"),
  get: (id) => tokens.all()[id],
  set: (id, token) => localStorage.setItem("cafe.tokens", JSON.stringify({ ...tokens.all(), [id]: token })),
  forget: (id) => tokens.set(id, undefined), // JSON leaves out what is undefined
};

// --- The API

class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, { body, userId } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (userId) headers.Authorization = `Bearer ${tokens.get(userId)}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    const doubt = method === "GET" ? "" : " Refresh to see whether the change was made.";
    throw new Problem(`The café did not answer.${doubt}`, 0);
  }
  const text = await response.text();
  if (response.ok) return { response, data: text && JSON.parse(text) };
  throw new Problem(readable(response, text), response.status);
}

// An error is a problem document (RFC 9457: title, detail), or FastAPI's {"detail": text or list of fields}.
function readable(response, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Not JSON: a proxy answered, and the status has to do.
  }
  const detail = Array.isArray(problem.detail)
    ? problem.detail.map((field) => `${field.loc.at(-1)}: ${field.msg}`).join("; ")
    : problem.detail;
  const wait = response.headers.get("Retry-After");
  return [
    detail || problem.title || `The café answered with status ${response.status}.`,
    wait && `Try again in ${wait} s.`,
  ].filter(Boolean).join(" ");
}

// --- What people see

function tell(message) {
  find("error").textContent = "";
  find("status").textContent = message;
}

function complain(error) {
  if (!(error instanceof Problem)) throw error;
  find("status").textContent = "";
  find("error").textContent = error.message;
}

function show(users) {
  list.replaceChildren(...users.map(row));
  list.removeAttribute("aria-busy");
  find("empty").hidden = users.length > 0;
  find("users-heading").textContent = users.length ? `Users (${users.length})` : "Users";
}

function row(user) {
  const item = find("user").content.cloneNode(true).firstElementChild;
  item.dataset.id = user.id;
  item.querySelector(".name").textContent = user.name;
  item.querySelector(".id").textContent = `no. ${user.id}`;
  if (!tokens.get(user.id)) {
    item.querySelector(".actions").remove();
    return item;
  }
  for (const [action, start] of [["rename", startRename], ["delete", askDelete]]) {
    const button = item.querySelector(`.${action}`);
    button.setAttribute("aria-label", `${button.textContent} ${user.name}`);
    button.addEventListener("click", () => start(user, item));
  }
  return item;
}

async function refresh() {
  const { data } = await call("GET", "/users");
  show(data);
}

function focusOn(id, selector) {
  const target = list.querySelector(`li[data-id="${id}"] ${selector}`);
  (target ?? find("users-heading")).focus();
}

// --- What people do

// Runs `work` with the form's button off, so that a double click adds nobody twice.
async function submit(form, work) {
  const input = form.elements.name;
  const button = form.querySelector("button.primary");
  const name = input.value.trim();
  input.removeAttribute("aria-invalid");
  if (!name) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
    complain(new Problem("Please enter a name.", 0));
    return;
  }
  button.disabled = true;
  try {
    await work(name);
  } catch (error) {
    if (error.status === 422) input.setAttribute("aria-invalid", "true");
    input.focus();
    complain(error);
  } finally {
    button.disabled = false;
  }
}

find("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  submit(form, async (name) => {
    const { response, data: user } = await call("POST", "/users", { body: { name } });
    tokens.set(user.id, response.headers.get("Bearer-Token"));
    tell(`${user.name} was added.`);
    form.reset();
    form.elements.name.focus();
    await refresh();
  });
});

function startRename(user, item) {
  const form = find("rename").content.cloneNode(true).firstElementChild;
  const input = form.elements.name;
  input.value = user.name;
  input.setAttribute("aria-label", `New name of ${user.name}`);
  const stop = () => {
    item.replaceWith(row(user));
    focusOn(user.id, ".rename");
  };
  form.querySelector(".cancel").addEventListener("click", stop);
  form.addEventListener("keydown", (event) => event.key === "Escape" && stop());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(form, async (name) => {
      const { data } = await callAs(user, "PATCH", { name });
      tell(`${user.name} is now ${data.name}.`);
      await refresh();
      focusOn(user.id, ".rename");
    });
  });
  item.replaceChildren(form);
  input.select();
}

function askDelete(user) {
  const dialog = find("delete");
  find("delete-question").textContent = `Delete ${user.name}? This cannot be undone.`;
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue === "delete" && remove(user).catch(complain);
  dialog.showModal();
}

async function remove(user) {
  await callAs(user, "DELETE");
  tokens.forget(user.id);
  tell(`${user.name} was deleted.`);
  await refresh();
  find("users-heading").focus();
}

// Acts as the user. A key that is not valid any more is dropped, or its buttons would fail for ever.
async function callAs(user, method, body) {
  try {
    return await call(method, `/users/${user.id}`, { body, userId: user.id });
  } catch (error) {
    if (error.status === 401) {
      tokens.forget(user.id);
      await refresh();
      find("users-heading").focus();
    }
    throw error;
  }
}

find("refresh").addEventListener("click", () => {
  refresh().then(() => tell("The list is up to date."), complain);
});

refresh().catch(complain);
