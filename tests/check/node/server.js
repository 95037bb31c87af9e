// A server of payments in another language, without a guard: node server.js DESCRIPTOR_SET
// It prints "listening on HOST:PORT" when it is ready. It has no reflection.
const crypto = require("crypto");
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const definition = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(process.argv[2]), { keepCase: true });
const { Payments } = grpc.loadPackageDefinition(definition).check.payments.v1;
const payments = [];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function pay({ request }, answer) {
  if (!request.payer) {
    const reason = new grpc.Metadata();
    reason.set("reason", "payer");
    answer({ code: grpc.status.INVALID_ARGUMENT, details: "a payer is missing", metadata: reason });
    return;
  }
  if (request.payer === "nobody") {
    answer({ code: grpc.status.NOT_FOUND, details: "there is no such payer" });
    return;
  }
  await pause(5);
  const payment = { id: crypto.randomUUID(), payer: request.payer, notes: request.notes };
  payments.push(payment);
  await pause(25);
  answer(null, payment);
}

function list(call, answer) {
  answer(null, { payments, total: payments.length });
}

const server = new grpc.Server();
server.addService(Payments.service, { Pay: pay, Refund: pay, List: list });
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on 127.0.0.1:${port}`);
});
