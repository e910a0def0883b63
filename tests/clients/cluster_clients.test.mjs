// ioredis' Cluster, and BullMQ on it, while nodes forward commands and while they redirect clients, with one shard group and
// with three.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Queue, QueueEvents, Worker } from 'bullmq';
import { Cluster } from 'ioredis';
import { Cluster as Cluster6 } from 'ioredis6';
import { Redis } from 'ioredis';
import { againstValkey, start, waitUntil } from './cluster.mjs';

const STORY = { timeout: 60_000 };
const skip = againstValkey && 'one Valkey without cluster mode is no cluster';

// Every node is on the map, and as many as there are groups serve some of the slots.
const isSettled = async (ports, groups) => {
  for (const port of ports) {
    const node = new Redis({ host: '127.0.0.1', port });
    const rows = await node.cluster('SLOTS');
    node.disconnect();
    const known = new Set(rows.flatMap((row) => row.slice(2).map(([, place]) => place)));
    if (known.size !== ports.length || new Set(rows.map((row) => row[2][1])).size !== groups) return false;
  }
  return true;
};

for (const [routing, groups] of [['proxy', 1], ['redirect', 1], ['proxy', 3], ['redirect', 3]]) {
  for (const [version, Client] of [['ioredis 5', Cluster], ['ioredis 6', Cluster6]]) {
    describe(`${version} Cluster with routing ${routing}, shard groups: ${groups}`, { skip }, () => {
      let cluster;
      let open = [];

      const connect = (options = {}) => {
        const nodes = cluster.ports.map((port) => ({ host: '127.0.0.1', port }));
        const client = new Client(nodes, { slotsRefreshTimeout: 5000, ...options });
        client.on('error', () => {});
        open.push(client);
        return client;
      };

      before(async () => {
        cluster = await start(undefined, groups);
        for (const port of cluster.ports) {
          const node = new Redis({ host: '127.0.0.1', port });
          await node.config('SET', 'routing', routing);
          node.disconnect();
        }
        await waitUntil(() => isSettled(cluster.ports, groups));
      }, STORY);
      afterEach(() => {
        open.forEach((client) => client.disconnect());
        open = [];
      });
      after(() => cluster?.stop(), STORY);

      test('keys of many slots are written and read', STORY, async () => {
        const client = connect();
        const numbers = Array.from({ length: 100 }, (_, number) => number);
        await Promise.all(numbers.map((number) => client.set(`key:${number}`, number)));
        assert.deepEqual(await Promise.all(numbers.map((number) => client.get(`key:${number}`))), numbers.map(String));
        assert.equal(client.nodes('master').length, groups);
        assert.equal(client.nodes('slave').length, 3 - groups);
      });

      test('pipelines, transactions and scripts run', STORY, async () => {
        const client = connect();
        const piped = await client.pipeline().set('{p}:a', 1).incr('{p}:a').get('{p}:a').exec();
        assert.deepEqual(piped, [[null, 'OK'], [null, 2], [null, '2']]);
        const transaction = await client.multi().set('{t}:a', 1).incr('{t}:a').exec();
        assert.deepEqual(transaction, [[null, 'OK'], [null, 2]]);
        client.defineCommand('twice', { numberOfKeys: 1, lua: "return 2 * redis.call('INCR', KEYS[1])" });
        assert.equal(await client.twice('n'), 2);
      });

      test('replicas answer reads when asked', STORY, async () => {
        const client = connect({ scaleReads: 'slave' });
        await client.set('read', 'x');
        await waitUntil(async () => (await client.get('read')) === 'x');
      });

      test('every key is found once by a walk over all masters', STORY, async () => {
        const client = connect();
        const names = Array.from({ length: 60 }, (_, number) => `walked:${number}`);
        await Promise.all(names.map((name) => client.set(name, 'x')));
        // The masters are known once something was asked.
        let found = [];
        for (const node of client.nodes('master')) {
          let cursor = '0';
          do {
            const [next, keys] = await node.scan(cursor, 'MATCH', 'walked:*', 'COUNT', 20);
            [cursor, found] = [next, found.concat(keys)];
          } while (cursor !== '0');
        }
        // With routing proxy any node is the whole cache.
        const times = routing === 'proxy' ? groups : 1;
        assert.deepEqual(found.sort(), Array(times).fill(names).flat().sort());
      });

      test('messages of shard channels reach listeners', STORY, async () => {
        const listener = connect({ shardedSubscribers: true });
        const client = connect();
        const heard = new Promise((resolve) => listener.on('smessage', (channel, message) => resolve([channel, message])));
        await listener.ssubscribe('shard-news');
        await client.spublish('shard-news', 'hello');
        assert.deepEqual(await heard, ['shard-news', 'hello']);
      });

      test('messages reach listeners', STORY, async () => {
        const listener = connect();
        const client = connect();
        const heard = new Promise((resolve) => listener.on('message', (channel, message) => resolve([channel, message])));
        await listener.subscribe('news');
        await client.publish('news', 'hello');
        assert.deepEqual(await heard, ['news', 'hello']);
      });

      test('who waits is served', STORY, async () => {
        const waiting = connect();
        const client = connect();
        const popped = waiting.blpop('queue', 20);
        await client.rpush('queue', 'element');
        assert.deepEqual(await popped, ['queue', 'element']);
      });

      if (version === 'ioredis 5') {
        test('BullMQ carries out jobs, delayed ones included', STORY, async () => {
          const settings = () => ({ connection: connect({ maxRetriesPerRequest: null }), prefix: '{bull}' });
          const queue = new Queue('jobs', settings());
          const done = [];
          const worker = new Worker('jobs', async (job) => { done.push(job.name); return job.data.number * 2; }, { ...settings(), drainDelay: 1 });
          // From the beginning: it is ready before it waits, and what ends in between it would never hear of.
          const events = new QueueEvents('jobs', { ...settings(), blockingTimeout: 1000, lastEventId: '0-0' });
          const things = [queue, worker, events];
          things.forEach((thing) => thing.on('error', () => {}));
          await Promise.all([worker.waitUntilReady(), events.waitUntilReady()]);
          const first = await queue.add('now', { number: 21 });
          assert.equal(await first.waitUntilFinished(events, 20_000), 42);
          await queue.add('later', { number: 1 }, { delay: 200 });
          await queue.addBulk(Array.from({ length: 50 }, (_, number) => ({ name: 'many', data: { number } })));
          await waitUntil(() => done.length === 52, 30_000);
          assert.equal(await queue.getCompletedCount(), 52);
          await Promise.all(things.map((thing) => thing.close(true)));
        });
      }
    });
  }
}
