// All that the pages do by script: passkeys, copying, and looking again.  Everything else works without.
"use strict";

const csrf = document.querySelector("meta[name=csrf]").content;

async function post(path, value) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF": csrf },
    body: JSON.stringify(value),
  });
  const answer = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

// base64url ↔ octets: what JSON and WebAuthn have.
const octets = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0)).buffer;
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

async function create(options) {
  options.challenge = octets(options.challenge);
  options.user.id = octets(options.user.id);
  for (const each of options.excludeCredentials || []) each.id = octets(each.id);
  const made = await navigator.credentials.create({ publicKey: options });
  return {
    id: made.id,
    rawId: text(made.rawId),
    type: made.type,
    response: {
      clientDataJSON: text(made.response.clientDataJSON),
      attestationObject: text(made.response.attestationObject),
    },
  };
}

async function get(options) {
  options.challenge = octets(options.challenge);
  for (const each of options.allowCredentials || []) each.id = octets(each.id);
  const shown = await navigator.credentials.get({ publicKey: options });
  return {
    id: shown.id,
    rawId: text(shown.rawId),
    type: shown.type,
    response: {
      clientDataJSON: text(shown.response.clientDataJSON),
      authenticatorData: text(shown.response.authenticatorData),
      signature: text(shown.response.signature),
      userHandle: shown.response.userHandle ? text(shown.response.userHandle) : null,
    },
  };
}

for (const each of document.querySelectorAll(".needs-script")) {
  each.hidden = !each.dataset.copy && !window.PublicKeyCredential;
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = form.querySelector("[data-error]");
    const button = form.querySelector("button");
    said.textContent = "";
    button.disabled = true;
    try {
      const options = await post(form.dataset.options, {});
      const credential = await (form.dataset.passkey === "create" ? create(options) : get(options));
      const fields = Object.fromEntries(new FormData(form));
      const answer = await post(form.dataset.done, { ...fields, credential });
      location.assign(answer.next);
    } catch (error) {
      said.textContent =
        error.name === "NotAllowedError" ? "No passkey was used: it was cancelled, or took too long." : error.message;
      button.disabled = false;
    }
  });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: copy it with your keyboard";
    }
  });
}

// What has not changed is not put in place again: a screen reader says only what is new.
for (const place of document.querySelectorAll("[data-live]")) {
  let seen = null;
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const response = await fetch(place.dataset.live);
      if (!response.ok || response.redirected) return;
      const found = await response.text();
      if (found !== seen) {
        if (seen !== null || place.innerHTML.trim() !== found.trim()) place.innerHTML = found;
        seen = found;
      }
    } catch {
      // No answer: what stands there is what was known last.
    }
  }, 3000);
}
