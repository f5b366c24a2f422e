// Reports the time, random numbers and whatever else usually differs between two runs.

export const plugin = {
  describe() {
    return {
      slug: "repeatable",
      displayName: "Repeatable",
      version: "1.0.0",
      docsUrl: "https://example.com/",
      secrets: [],
      settings: [],
      hosts: [],
      statuses: { unproven: 401, malformed: 400, unavailable: 503 },
    };
  },

  authenticate() {
    return [];
  },

  normalize() {
    const random = crypto.getRandomValues(new Uint8Array(16));
    const found = {
      clock: Date.now(),
      local: new Date().toString(),
      monotonic: performance.now(),
      random: Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join(""),
      float: Math.random(),
      uuid: crypto.randomUUID(),
    };
    const event = {
      index: 0,
      eventType: "opened",
      timestampMs: BigInt(Date.now()),
      recipientEmail: "ann@example.com",
      messageId: "m-1",
      identifiers: [],
      tags: [],
      metadata: Object.entries(found).map(([name, value]) => ({ name, value: String(value) })),
    };
    return { tag: "events", val: { events: [event], skipped: [], rejected: [] } };
  },
};
