// ioredis' Cluster, and BullMQ on it, on three shard groups while slots move and a node that serves one of them is killed: what
// was acknowledged to a user with ack=quorum is there, each job that was accepted is done, and every client goes on by itself.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { Queue, Worker } from 'bullmq';
import { Cluster, Redis } from 'ioredis';
import { againstValkey, binary, start, waitUntil } from './cluster.mjs';

const STORY = { timeout: 240_000 };
const skip = againstValkey && 'one Valkey without cluster mode is no cluster';
const SETS = 20;
const MORE = 100;
const run = promisify(execFile);

describe('three shard groups under faults', { skip }, () => {
  let cluster;
  const clients = [];

  const connect = () => {
    const nodes = cluster.ports.map((port) => ({ host: '127.0.0.1', port }));
    const redisOptions = { username: 'queue', password: 'secret', maxRetriesPerRequest: null };
    const client = new Cluster(nodes, { slotsRefreshTimeout: 5000, redisOptions });
    client.on('error', () => {});
    clients.push(client);
    return client;
  };

  const admin = (port) => {
    const client = new Redis({ host: '127.0.0.1', port });
    clients.push(client);
    return client;
  };

  before(async () => {
    cluster = await start(undefined, 3);
    const first = admin(cluster.ports[0]);
    await waitUntil(async () => new Set((await first.cluster('SLOTS')).map((row) => row[2][1])).size === 3);
    await first.acl('SETUSER', 'queue', 'on', '>secret', '~*', '&*', '+@all', 'ack=quorum');
  }, STORY);
  after(async () => {
    clients.forEach((client) => client.disconnect());
    await cluster?.stop();
  }, STORY);

  test('writes and jobs survive a move and a killed primary', STORY, async () => {
    let ends = false;
    const added = [];
    const accepted = [];
    const done = new Set();
    const errors = [];
    const settings = () => ({ connection: connect(), prefix: '{bull}' });
    const queue = new Queue('jobs', settings());
    const worker = new Worker('jobs', async (job) => { done.add(job.id); }, { ...settings(), drainDelay: 1, lockDuration: 5000, stalledInterval: 2000 });
    [queue, worker].forEach((thing) => thing.on('error', (error) => errors.push(`${error}`)));

    // The same clients go on with the next one, whatever became of the last.
    const keep = async (step) => {
      for (let number = 1; !ends; number += 1) {
        try {
          await step(number);
        } catch (error) {
          errors.push(`${error}`);
        }
      }
    };
    const writer = connect();
    const write = async (number) => {
      const key = `faults:${number % SETS}`;
      await writer.sadd(key, number);
      added.push([key, `${number}`]);
    };
    const order = async (number) => accepted.push((await queue.add('job', { number })).id);
    const running = [keep(write), keep(order)];

    const goOn = async () => {
      const [writes, jobs, finished] = [added.length, accepted.length, done.size];
      const wentOn = () => added.length >= writes + MORE && accepted.length >= jobs + MORE && done.size >= finished + MORE;
      await waitUntil(wentOn, 60_000).catch((error) => {
        throw new Error(`a client does not go on: ${errors.slice(-3)}`, { cause: error });
      });
    };
    const move = async (to) => {
      const words = ['--addr', `127.0.0.1:${cluster.ports[0] + 1000}`, 'slots', 'move', '0-5000', '--to', to];
      // It may be told that the last move is still cleaned up.
      await waitUntil(() => run(binary('keywardctl'), words).then(() => true, () => false), 60_000);
    };
    try {
      await goOn();
      await move('1');
      await goOn();
      const last = await admin(cluster.ports[2]).info('server');
      process.kill(Number(/process_id:(\d+)/.exec(last)[1]), 'SIGKILL');
      await goOn();
      await move('0');
      await goOn();
    } finally {
      ends = true;
      await Promise.all(running);
    }
    await waitUntil(() => accepted.every((id) => done.has(id)), 60_000);
    const reader = admin(cluster.ports[0]);
    const found = new Map();
    for (let number = 0; number < SETS; number += 1) {
      found.set(`faults:${number}`, new Set(await reader.smembers(`faults:${number}`)));
    }
    const missing = added.filter(([key, value]) => !found.get(key).has(value));
    assert.deepEqual(missing, [], `${missing.length} of ${added.length}`);
    await Promise.all([queue, worker].map((thing) => thing.close(true)));
  });
});
