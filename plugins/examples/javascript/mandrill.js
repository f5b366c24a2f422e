// Mandrill's webhooks, like plugins/mandrill, in JavaScript: forms with a JSON list of events, signed with HMAC. The types are
// those of wit/1.0.0/connector.wit: an enum is its name, a variant is `{ tag, val }`, an absent option is `undefined`, a 64-bit
// number is a BigInt. A thrown value is the error case of the result.

const DOCS = "https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/";

const SIGNATURE = "x-mandrill-signature";

// Mandrill sends one field. Putting the thousands of a stranger in order could take all the time that a delivery has.
const MOST_FIELDS = 32;

// The form of an empty list, as text or percent-encoded.
const EMPTY_LIST = /^mandrill_events=(\[\]|%5B%5D)$/i;

// 9999-12-31T23:59:59.999Z: no event is later.
const LAST_MS = 253402300799999n;

const EVENT_TYPES = new Map([
  ["send", ["sent"]],
  ["delivered", ["delivered"]],
  ["deferral", ["deferred"]],
  ["hard_bounce", ["bounced", "hard"]],
  ["soft_bounce", ["bounced", "soft"]],
  ["open", ["opened"]],
  ["click", ["clicked"]],
  ["spam", ["marked-spam"]],
  ["unsub", ["unsubscribed"]],
  ["reject", ["rejected"]],
]);

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const plugin = {
  describe() {
    return {
      slug: "mandrill",
      displayName: "Mandrill (Mailchimp Transactional)",
      version: "1.0.0",
      docsUrl: DOCS,
      secrets: [
        { name: "webhook_key", summary: "The webhook's own key, under Settings > Webhooks.", required: true },
        {
          name: "basic_auth_user",
          summary: "User name that the webhook's URL or its authentication setting carries.",
          required: false,
        },
        {
          name: "basic_auth_password",
          summary: "Password that goes with `basic_auth_user`.",
          required: false,
        },
      ],
      settings: [
        {
          name: "webhook_url",
          summary: "The webhook's URL exactly as it was entered in Mandrill; it is signed.",
          required: true,
        },
      ],
      hosts: [],
      statuses: { unproven: 401, malformed: 400, unavailable: 503 },
    };
  },

  authenticate(request) {
    if (isAddressCheck(request)) {
      return [{ tag: "handshake" }];
    }
    const proofs = [];
    if (request.secrets.includes("basic_auth_user") || request.secrets.includes("basic_auth_password")) {
      proofs.push({
        tag: "basic-auth",
        val: {
          authorization: proofHeader(request, "authorization"),
          user: "basic_auth_user",
          password: "basic_auth_password",
        },
      });
    }
    if (request.secrets.includes("webhook_key")) {
      const signature = proofHeader(request, SIGNATURE);
      const url = request.settings.find(({ name }) => name === "webhook_url")?.value.trim();
      if (isBlank(url)) {
        throw { tag: "invalid-proof", val: "setting `webhook_url`, which Mandrill signs, is not set" };
      }
      // The signed message: the URL, then name and value of every field, ordered by name.
      let fields = [];
      try {
        fields = [...form(request)];
      } catch {
        // Of a body that is no form, only the URL can have been signed; `normalize` refuses it once that is verified.
      }
      fields.sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0));
      const message = encoder.encode(url + fields.map(([name, value]) => name + value).join(""));
      proofs.push({
        tag: "keyed-hash",
        val: {
          source: `header \`${SIGNATURE}\``,
          construction: "hmac",
          hash: "sha1",
          key: { tag: "secret", val: { name: "webhook_key", encoding: "utf8", stripPrefix: "" } },
          messages: [[{ tag: "bytes", val: message }]],
          signatures: [{ text: signature, encoding: "base64" }],
        },
      });
    }
    return proofs;
  },

  normalize(request) {
    const batch = { events: [], skipped: [], rejected: [] };
    if (!isAddressCheck(request)) {
      elements(request).forEach((element, index) => add(batch, index, element));
    }
    return { tag: "events", val: batch };
  },
};

// Mandrill checks whether the address exists before the webhook has a key to sign with: with HEAD or, if that does not arrive, with
// an empty list, which gives no event, whoever sends it.
function isAddressCheck(request) {
  return request.method === "HEAD" || (request.body.length < 32 && EMPTY_LIST.test(decoder.decode(request.body)));
}

function proofHeader(request, wanted) {
  const header = request.headers.find(({ name, value }) => name === wanted && !isBlank(value));
  if (header === undefined) {
    throw { tag: "missing-proof", val: `header \`${wanted}\` is missing or empty` };
  }
  return header.value;
}

function form(request) {
  const contentType = request.headers.find(({ name }) => name === "content-type")?.value ?? "";
  if (contentType.split(";")[0].trim().toLowerCase() !== "application/x-www-form-urlencoded") {
    throw { tag: "malformed", val: "the body is not a form" };
  }
  const fields = new URLSearchParams(decoder.decode(request.body));
  if ([...fields].length > MOST_FIELDS) {
    throw { tag: "malformed", val: `the form has more than ${MOST_FIELDS} fields` };
  }
  return fields;
}

function elements(request) {
  const json = form(request).get("mandrill_events");
  if (json === null) {
    throw { tag: "malformed", val: "the form has no field `mandrill_events`" };
  }
  let list;
  try {
    // Most have no escape that could be half of a surrogate pair.
    list = /\\u[dD]/.test(json) ? JSON.parse(json, wellFormed) : JSON.parse(json);
  } catch {
    // The parser's message may quote the body.
    throw { tag: "malformed", val: "`mandrill_events` is not JSON" };
  }
  if (!Array.isArray(list)) {
    throw { tag: "malformed", val: "`mandrill_events` is not a JSON array" };
  }
  return list;
}

/** Replaces halves of surrogate pairs with U+FFFD: JSON's escapes can write them, UTF-8 cannot. */
function wellFormed(_, value) {
  if (typeof value === "string") {
    return value.toWellFormed();
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    return value;
  }
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name.toWellFormed(), item]));
}

function add(batch, index, element) {
  const name = text(element?.event) ?? "";
  const [eventType, bounceType] = EVENT_TYPES.get(name) ?? [];
  if (eventType === undefined && name === "" && text(element?.type) === undefined) {
    batch.rejected.push({ index, reason: "the element has no type" });
    return;
  }
  if (eventType === undefined) {
    batch.skipped.push(skipped(index, name, element));
    return;
  }
  const timestampMs = milliseconds(element.ts);
  if (timestampMs === undefined) {
    batch.rejected.push({ index, reason: "`ts` is not a valid time" });
    return;
  }
  const message = element.msg ?? {};
  const recipientEmail = text(message.email);
  if (recipientEmail === undefined) {
    batch.rejected.push({ index, reason: "the event names no recipient" });
    return;
  }
  batch.events.push({
    index,
    eventType,
    timestampMs,
    recipientEmail,
    identifiers: [],
    messageId: text(message._id) ?? text(element._id),
    subject: text(message.subject),
    clickUrl: eventType === "clicked" ? text(element.url) : undefined,
    userAgent: text(element.user_agent),
    ipAddress: text(element.ip),
    bounceType,
    reason: reason(eventType, message),
    tags: texts(message.tags),
    metadata: pairs(message.metadata),
    isMachine: text(element.user_agent_parsed?.type)?.toLowerCase() === "robot" ? true : undefined,
  });
}

function skipped(index, name, element) {
  switch (name) {
    case "inbound":
      return { index, providerType: name, reason: "an incoming message" };
    case "":
      return {
        index,
        providerType: text(element.type),
        reason: "synchronisation of a list, not about a message",
      };
    default:
      return { index, providerType: name, reason: "not used" };
  }
}

function reason(eventType, message) {
  switch (eventType) {
    case "bounced":
      return text(message.diag) ?? text(message.bounce_description);
    case "deferred":
      // The event is about the last attempt; not every attempt has a text.
      return attempts(message).findLast((diag) => diag !== undefined);
    default:
      return undefined;
  }
}

function attempts(message) {
  return Array.isArray(message.smtp_events) ? message.smtp_events.map((attempt) => text(attempt?.diag)) : [];
}

// Converts seconds, with or without a fraction, to whole milliseconds.
function milliseconds(value) {
  const [, seconds, fraction = ""] = /^(\d+)(?:\.(\d*))?$/.exec((text(value) ?? "").trim()) ?? [];
  if (seconds === undefined || seconds.length > 15) {
    return undefined;
  }
  const time = BigInt(seconds) * 1000n + BigInt(fraction.slice(0, 3).padEnd(3, "0"));
  return time <= LAST_MS ? time : undefined;
}

function isBlank(value) {
  return typeof value !== "string" || value.trim() === "";
}

// Returns a text that is not blank, or a number as text.
function text(value) {
  if (typeof value === "number") {
    return String(value);
  }
  return isBlank(value) ? undefined : value;
}

// Returns a list of texts; a single text stands for a list of one.
function texts(value) {
  const list = Array.isArray(value) ? value : [value];
  return list.map(text).filter((item) => item !== undefined);
}

function pairs(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [];
  }
  return Object.entries(value)
    .filter(([, item]) => item !== null)
    .map(([name, item]) => ({ name, value: typeof item === "string" ? item : JSON.stringify(item) }));
}
