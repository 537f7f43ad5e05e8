// Reference (b): a relay on npm's smtp-server and undici. Run as `node relay.mjs PORT URL-OF-SEND-RAW`.
import { SMTPServer } from "smtp-server";
import { Pool } from "undici";

const [port, sendRaw] = process.argv.slice(2);
const { origin, pathname } = new URL(sendRaw);
const pool = new Pool(origin, { connections: 100 });

function refusal(responseCode, text) {
  return Object.assign(new Error(text), { responseCode });
}

async function send(envelope, message) {
  const { statusCode, body } = await pool.request({
    method: "POST",
    path: pathname,
    headers: { authorization: "Bearer bench", "content-type": "application/json" },
    body: JSON.stringify({
      from: envelope.mailFrom ? envelope.mailFrom.address : "",
      recipients: envelope.rcptTo.map((recipient) => recipient.address),
      mime_message: message.toString("utf8"),
    }),
  });
  if (statusCode === 429 || statusCode >= 500) {
    await body.dump();
    throw refusal(451, `4.3.0 HTTP ${statusCode}`);
  }
  const answer = await body.json();
  if (!answer.success) throw refusal(554, `5.0.0 ${answer.errors[0].message}`);
  if (answer.result.permanent_bounces.length > 0) throw refusal(550, "5.1.1 bounced");
  return "2.0.0 sent";
}

const server = new SMTPServer({
  disabledCommands: ["AUTH", "STARTTLS"],
  disableReverseLookup: true,
  size: 25 * 1024 * 1024,
  onData(stream, session, callback) {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => {
      send(session.envelope, Buffer.concat(chunks)).then(
        (text) => callback(null, text),
        (error) => callback(error.responseCode ? error : refusal(451, `4.4.1 ${error.message}`)),
      );
    });
  },
});
server.on("error", (error) => console.error(error));
server.listen(Number(port), "127.0.0.1");
