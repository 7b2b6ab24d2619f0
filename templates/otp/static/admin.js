// sqladmin sends changes without a CSRF token, and its actions as links. This puts the page's token
// into every form and request to this site, makes actions POST, and goes to the log-in when a change
// wants a verification that is not as old.
(function () {
  "use strict";

  // What sqladmin's lists leave without a name.
  document.querySelector("#search-reset")?.setAttribute("aria-label", "Reset the search");
  document.querySelectorAll("thead th.w-1:empty").forEach((th) => th.append("Open"));

  const token = document.querySelector('meta[name="otp-csrf-token"]')?.content;
  if (!token) return;
  const isOurs = (url) => new URL(url, location.href).origin === location.origin;

  const open = XMLHttpRequest.prototype.open;
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.otpIsOurs = isOurs(url);
    // Registered before sqladmin's own, which would show the answer to the user.
    this.addEventListener("load", (event) => {
      const login = this.otpIsOurs && this.status === 403 && this.getResponseHeader("Location");
      if (!login) return;
      event.stopImmediatePropagation();
      location.assign(login);
    });
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.otpIsOurs) this.setRequestHeader("X-CSRF-Token", token);
    return send.call(this, body);
  };

  const fetched = window.fetch;
  window.fetch = function (resource, options) {
    const request = new Request(resource, options);
    if (!isOurs(request.url)) return fetched(request);
    request.headers.set("X-CSRF-Token", token);
    return fetched(request).then((response) => {
      const login = response.status === 403 && response.headers.get("Location");
      if (!login) return response;
      location.assign(login);
      return new Promise(() => {});
    });
  };

  function complete(form) {
    if (form.method !== "post" || !isOurs(form.action) || form.elements.csrf_token) return;
    const field = document.createElement("input");
    field.type = "hidden";
    field.name = "csrf_token";
    field.value = token;
    form.append(field);
  }
  document.addEventListener("submit", (event) => complete(event.target), true);

  function post(url) {
    const form = document.createElement("form");
    form.method = "post";
    form.action = url;
    document.body.append(form);
    complete(form);
    form.submit();
  }

  document.addEventListener("click", function (event) {
    const link = event.target.closest?.("a");
    if (!link) return;
    const url = link.dataset.url || link.getAttribute("href") || "";
    if (!/\/action\/[^/]+$/.test(url.split("?")[0]) || !isOurs(url)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!link.dataset.url) return post(url);
    const chosen = [...document.querySelectorAll(".select-box:checked")];
    const keys = chosen.map((box) => box.closest("td").querySelector("input[type=hidden]").value);
    post(url.split("?")[0] + "?pks=" + encodeURIComponent(keys.join(",")));
  }, true);
})();
