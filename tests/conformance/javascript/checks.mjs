// What an application of NATS does all day, with the official JavaScript client: `node checks.mjs URL`.
//
// Prints one JSON object: what each check saw, or {"error": "..."} where it failed. test_javascript.py says
// what should have been seen. A URL of ws:// is connected to as a browser does.
import { connect } from "@nats-io/transport-node";
import * as core from "@nats-io/nats-core";
import { WebSocket } from "ws";

globalThis.WebSocket ??= WebSocket; // browsers have one, and so has Node.js from 22 on
const url = process.argv[2];
const open = url.startsWith("ws://") ? core.wsconnect : connect;
const timeout = 30_000;
const text = new TextDecoder();
const unique = Math.random().toString(36).slice(2);

const client = await open({ servers: url, timeout });
const other = await open({ servers: url, timeout });

async function mq9(command, body, options = {}) {
  const payload = typeof body === "string" ? body : JSON.stringify(body ?? {});
  const reply = await client.request(`$mq9.AI.${command}`, payload, { timeout, ...options });
  return reply.json();
}

async function taken(subscription, count) {
  const messages = [];
  for await (const message of subscription) {
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}

const checks = {
  async publish_subscribe() {
    const subscription = other.subscribe(`${unique}.orders.*.new`);
    await other.flush();
    client.publish(`${unique}.orders.eu.new`, "1");
    client.publish(`${unique}.orders.eu.old`, "2");
    client.publish(`${unique}.orders.us.new`, "ü");
    return (await taken(subscription, 2)).map((m) => [m.subject.slice(unique.length), m.string()]);
  },

  async headers() {
    const subscription = other.subscribe(`${unique}.headers`);
    await other.flush();
    const headers = core.headers();
    headers.append("A", "1");
    headers.append("A", "2");
    headers.set("b-C", "two words");
    client.publish(`${unique}.headers`, "x", { headers });
    const [message] = await taken(subscription, 1);
    return [message.headers.values("A"), message.headers.get("b-C")];
  },

  async request_reply() {
    const service = other.subscribe(`${unique}.service`, {
      callback: (_, message) => message.respond(`re: ${message.string()}`),
    });
    await other.flush();
    const asked = Array.from({ length: 100 }, (_, n) => client.request(`${unique}.service`, `${n}`, { timeout }));
    const answers = (await Promise.all(asked)).map((m) => m.string());
    service.unsubscribe();
    return answers.every((answer, n) => answer === `re: ${n}`) && answers.length;
  },

  async request_many() {
    const service = other.subscribe(`${unique}.many`, {
      callback: (_, message) => [1, 2, 3].forEach((n) => message.respond(`${n}`)),
    });
    await other.flush();
    const options = { strategy: "count", maxMessages: 3, maxWait: timeout };
    const answers = [];
    for await (const message of await client.requestMany(`${unique}.many`, "", options)) answers.push(message.string());
    service.unsubscribe();
    return answers;
  },

  async no_responders() {
    try {
      await client.request(`${unique}.nobody`, "", { timeout });
      return "answered";
    } catch (error) {
      return error.isNoResponders?.() || error.cause?.isNoResponders?.() || error instanceof core.errors.NoRespondersError
        ? "no responders" : error.name;
    }
  },

  async queue_group() {
    const subject = `${unique}.work`;
    let got = 0;
    const done = new Promise((resolve) => {
      const callback = () => { if (++got === 200) resolve(); };
      for (const connection of [client, other, other]) connection.subscribe(subject, { queue: "q", callback });
    });
    await Promise.all([client.flush(), other.flush()]);
    for (let n = 0; n < 200; n++) client.publish(subject);
    await done;
    await Promise.all([client.flush(), other.flush()]);
    return got;
  },

  async large_payload() {
    const subscription = other.subscribe(`${unique}.large`);
    await other.flush();
    const payload = new Uint8Array(client.info.max_payload).fill(7);
    client.publish(`${unique}.large`, payload);
    const [message] = await taken(subscription, 1);
    return message.data.length === payload.length && message.data.every((byte) => byte === 7);
  },

  async drain() {
    const drained = await open({ servers: url, timeout });
    let got = 0;
    drained.subscribe(`${unique}.drained`, { callback: () => { got++; } });
    await drained.flush();
    for (let n = 0; n < 300; n++) other.publish(`${unique}.drained`);
    await other.flush();
    await drained.drain();
    return [got, drained.isClosed()];
  },

  async mailbox() {
    const { mail_address: box } = await mq9("MAILBOX.CREATE", { ttl: 3600 });
    const critical = core.headers();
    critical.set("mq9-priority", "critical");
    critical.set("X-Mine", "kept");
    const ids = [(await mq9(`MSG.SEND.${box}`, "first")).msg_id];
    ids.push((await mq9(`MSG.SEND.${box}`, "stop", { headers: critical })).msg_id);
    const fetch = { group_name: "workers", deliver: "earliest" };
    const { messages } = await mq9(`MSG.FETCH.${box}`, fetch);
    const acked = await mq9(`MSG.ACK.${box}`, { group_name: "workers", msg_id: messages.at(-1).msg_id });
    const empty = await mq9(`MSG.FETCH.${box}`, { ...fetch, config: { max_wait_ms: 0 } });
    return [
      ids,
      messages.map((m) => [m.priority, text.decode(Uint8Array.from(atob(m.payload), (c) => c.charCodeAt(0)))]),
      messages[0].header,
      acked.error,
      empty.messages,
    ];
  },

  async refusals() {
    const missing = await mq9(`MSG.FETCH.${unique}.missing`);
    const wrong = await mq9("MAILBOX.CREATE", { name: "WRONG" });
    return [missing.code, wrong.code];
  },
};

const seen = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    seen[name] = await check();
  } catch (error) {
    seen[name] = { error: `${error.stack ?? error}` };
  }
}
await Promise.all([client.close(), other.close()]);
console.log(JSON.stringify(seen));
process.exit(0);
