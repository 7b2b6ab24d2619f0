// A single-page client of the JSON routes, to copy from: no library, no build, no CSRF token.
// The browser says itself which page sends a request, and keeps the session in a cookie.

const root = document.getElementById("spa");

async function api(method, path, body) {
  const answer = await fetch(root.dataset.api + path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  const found = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.detail), found);
  return found;
}

// What is on the page.

function tag(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function field(label, attributes) {
  const id = `spa-${attributes.name}`;
  const name = tag("label", { for: id }, label);
  return tag("div", { class: "otp-field" }, name, tag("input", { id, ...attributes }));
}

const code = (label = "Code") =>
  field(label, { name: "token", autocomplete: "one-time-code", autocapitalize: "none" });

function form(button, fields, send) {
  const problem = tag("p", { class: "otp-error", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    const pressed = made.querySelector("button");
    pressed.disabled = true;
    try {
      await send(Object.fromEntries(new FormData(made)));
    } catch (error) {
      problem.textContent = error.message;
      pressed.disabled = false;
    }
  };
  const actions = tag("div", { class: "otp-actions" }, tag("button", { class: "otp-primary" }, button));
  const made = tag("form", { onsubmit: submit, novalidate: "" }, ...fields, problem, actions);
  return made;
}

const link = (text, act) =>
  tag("button", { class: "otp-link", type: "button", onclick: () => act().catch(tell) }, text);

function page(title, ...children) {
  root.replaceChildren(tag("h1", { tabindex: "-1" }, title), ...children.filter(Boolean));
  (root.querySelector("input") ?? root.querySelector("h1")).focus();
}

function tell(error) {
  // A change asks for a code again after five minutes.
  if (error.code === "reverification_required") stepUp();
  else if (error.code === "not_authenticated") start();
  else root.prepend(tag("p", { class: "otp-alert", role: "alert" }, error.message));
}

// What a session may be, and what comes next.

const states = {
  anonymous: signIn,
  token_required: secondStep,
  challenge_sent: secondStep,
  enrolment_required: addApp,
  authenticated: account,
  verified: account,
};

const go = (session) => states[session.state](session);

const start = () => api("GET", "/session").then(go).catch(tell);

function signIn() {
  const fields = [
    field("Username", { name: "username", autocomplete: "username", autocapitalize: "none" }),
    field("Password", { name: "password", type: "password", autocomplete: "current-password" }),
  ];
  page("Sign in", form("Continue", fields, async (given) => go(await api("POST", "/session", given))));
}

function secondStep(session) {
  const senders = session.devices.filter((device) => device.interactive);
  const send = async (given) => go(await api("POST", "/session/token", given));
  page(
    "Enter your code",
    session.challenge && tag("p", { class: "otp-info" }, session.challenge.message),
    tag("p", {}, `From: ${session.devices.map((device) => device.label).join(", ")}.`),
    form("Sign in", [code()], send),
    ...senders.map((device) =>
      tag("p", { class: "otp-more" }, link(`Send me a code: ${device.label}`, async () =>
        go(await api("POST", "/session/challenge", { device: device.id })))),
    ),
    tag("p", { class: "otp-aside" }, link("Sign in as somebody else", async () => {
      await api("DELETE", "/session");
      signIn();
    })),
  );
}

function stepUp() {
  const again = async (given) => go(await api("POST", "/session/token", given));
  page("Enter a code again", tag("p", {}, "Your last one is too long ago for this."), form("Go on", [code()], again));
}

async function account(session) {
  const { devices } = await api("GET", "/devices");
  const rows = devices.map((device) => tag("li", {}, device.label, link("Remove", async () => {
    await api("DELETE", `/devices/${device.id}`);
    await start();
  })));
  page(
    `Hello ${session.user.name}`,
    tag("p", {}, `You are ${session.state}, by ${session.amr.join(", ")} (${session.acr}).`),
    tag("ul", { class: "otp-list" }, ...rows),
    tag("div", { class: "otp-actions" },
      tag("button", { class: "otp-primary", onclick: () => addApp().catch(tell) }, "Add an authenticator app"),
      tag("button", { class: "otp-secondary", onclick: () => sessions().catch(tell) }, "Where you are signed in")),
    tag("p", { class: "otp-aside" }, link("Sign out", async () => {
      await api("DELETE", "/session");
      await start();
    })),
  );
}

async function addApp() {
  const { device, setup } = await api("POST", "/devices", { kind: "totp" }).catch((error) => {
    tell(error);
    return {};
  });
  if (!device) return;
  const picture = tag("div", { class: "otp-qr-frame" });
  picture.innerHTML = setup.qr_svg ?? "";
  const confirm = async (given) => {
    const done = await api("POST", `/devices/${device.id}/confirm`, given);
    if (done.recovery_codes) keep(done);
    else go(done.session);
  };
  page(
    "Scan this with your app",
    picture,
    tag("p", {}, "Or type this key: ", tag("code", {}, setup.secret)),
    form("Confirm", [code("The code that your app shows")], confirm),
    tag("p", { class: "otp-aside" }, link("Cancel", async () => {
      await api("DELETE", `/devices/${device.id}`);
      await start();
    })),
  );
}

function keep(done) {
  page(
    "Save your recovery codes",
    tag("p", {}, "Each lets you in once, without your app. They are shown this once."),
    tag("pre", { class: "otp-codes" }, done.recovery_codes.join("\n")),
    tag("div", { class: "otp-actions" },
      tag("button", { class: "otp-primary", onclick: () => go(done.session) }, "I saved them")),
  );
}

async function sessions() {
  const listed = (await api("GET", "/sessions")).sessions;
  const rows = listed.map((one) => tag("li", {},
    `${one.user_agent || "Unknown"}, last seen ${new Date(one.seen_at).toLocaleString()}`,
    one.current ? tag("strong", {}, "this one") : link("Sign out", async () => {
      await api("DELETE", `/sessions/${one.id}`);
      await sessions();
    })));
  page("Where you are signed in", tag("ul", { class: "otp-list" }, ...rows), tag("p", {}, link("Back", start)));
}

start();
