// A host for the module: it has the socket and the clock.
// node drive.mjs MODULE HOST PORT SENDER RECIPIENT < MESSAGE
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';

const [path, host, port, sender, recipient] = process.argv.slice(2);
const module = new WebAssembly.Module(readFileSync(path));
console.log(`the module has ${WebAssembly.Module.imports(module).length} imports`);
const engine = new WebAssembly.Instance(module).exports;
const now = () => performance.now();
// A view of the buffer, made anew: the memory may have grown.
const buffer = () => new Uint8Array(engine.memory.buffer, engine.buffer(), engine.size());
const text = () => {
  const octets = buffer();
  return Buffer.from(octets.subarray(0, octets.indexOf(0))).toString();
};

let timer;
let isOver = false;
const socket = connect({ host, port: Number(port), noDelay: true }, () => {
  const parts = [Buffer.from('client.example.org'), Buffer.from(sender), Buffer.from(recipient), readFileSync(0)];
  buffer().set(Buffer.concat(parts));
  if (!engine.begin(now(), ...parts.map((part) => part.length))) {
    console.error(text());
    process.exit(1);
  }
  turn();
});

function turn() {
  clearTimeout(timer);
  if (isOver) return;
  for (let length; (length = engine.transmit(now())) > 0; ) {
    // A copy: the buffer is used again before the socket is done. It is written when the socket has taken it.
    socket.write(Buffer.from(buffer().subarray(0, length)), () => {
      engine.written(now(), length);
      turn();
    });
  }
  if (engine.is_over()) {
    isOver = true;
    if (text()) console.log(text());
    socket.end();
    return;
  }
  const deadline = engine.deadline();
  if (deadline >= 0) {
    timer = setTimeout(() => (engine.timed_out(now()), turn()), Math.max(1, deadline - now()));
  }
}

socket.on('data', (octets) => {
  for (let at = 0; at < octets.length; at += engine.size()) {
    const piece = octets.subarray(at, at + engine.size());
    buffer().set(piece);
    engine.received(now(), piece.length);
  }
  turn();
});
socket.on('end', () => (engine.received(now(), 0), turn()));
socket.on('error', (error) => {
  console.error(error.message);
  process.exitCode = 1;
  engine.received(now(), 0);
  turn();
});
