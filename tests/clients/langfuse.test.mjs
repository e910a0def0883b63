// What Langfuse sends besides its queues: cached answers, API keys, locks, rate limits and scans, through ioredis with its own
// options, as the confined user of the pattern document.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { PATTERN, start, waitUntil } from './cluster.mjs';

const STORY = { timeout: 30_000 };

describe('Langfuse', () => {
  let cluster;
  const open = [];
  before(async () => { cluster = await start(PATTERN); }, { timeout: 60_000 });
  after(async () => {
    open.forEach((client) => client.disconnect());
    await cluster.stop();
  });

  const connect = (node, options = {}) => {
    const client = new Redis({
      host: '127.0.0.1', port: cluster.ports[node - 1], username: 'langfuse', password: 'langfuse-password',
      keyPrefix: 'langfuse:', enableAutoPipelining: true, maxRetriesPerRequest: null, keepAlive: 10_000, socketTimeout: 10_000, ...options,
    });
    client.on('error', () => {});
    open.push(client);
    return client;
  };

  test('a cached API key lives its time and is renewed by reading', STORY, async () => {
    const [web, worker] = [connect(1), connect(3)];
    assert.equal(await web.set('api-key:abc', JSON.stringify({ project: 1 }), 'EX', 300), 'OK');
    assert.deepEqual(JSON.parse(await worker.getex('api-key:abc', 'EX', 600)), { project: 1 });
    assert.ok(await web.ttl('api-key:abc') > 300);
    assert.equal(await web.setex('prompt:1:2', 60, 'x'), 'OK');
    assert.deepEqual(await worker.mget('api-key:abc', 'prompt:1:2', 'prompt:none'), ['{"project":1}', 'x', null]);
    assert.equal(await web.exists('prompt:1:2'), 1);
    assert.equal(await web.del('api-key:abc', 'prompt:1:2', 'prompt:none'), 2);
    assert.equal(await worker.get('api-key:abc'), null);
  });

  test('a lock is taken once, extended and given back by its holder alone', STORY, async () => {
    const release = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
    const extend = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('expire', KEYS[1], ARGV[2]) else return 0 end";
    const taken = await Promise.all([1, 2, 3].map((node) => connect(node).set('lock:migration', `pod ${node}`, 'EX', 30, 'NX')));
    assert.deepEqual(taken.filter(Boolean), ['OK']);
    const holder = taken.indexOf('OK') + 1;
    const other = (holder % 3) + 1;
    assert.equal(await connect(other).eval(release, 1, 'lock:migration', `pod ${other}`), 0);
    assert.equal(await connect(holder).eval(extend, 1, 'lock:migration', `pod ${holder}`, 600), 1);
    assert.ok(await connect(other).ttl('lock:migration') > 30);
    assert.equal(await connect(holder).eval(release, 1, 'lock:migration', `pod ${holder}`), 1);
    assert.equal(await connect(other).exists('lock:migration'), 0);
  });

  test('a rate limiter counts the requests of all pods', STORY, async () => {
    // As rate-limiter-flexible does it: the script by its digest, and the text where it is not known yet.
    const lua = "redis.call('set', KEYS[1], 0, 'EX', ARGV[2], 'NX') "
      + "local consumed = redis.call('incrby', KEYS[1], ARGV[1]) "
      + "local ttl = redis.call('pttl', KEYS[1]) "
      + "if ttl == -1 then redis.call('expire', KEYS[1], ARGV[2]) ttl = 1000 * ARGV[2] end "
      + 'return {consumed, ttl}';
    const pods = [1, 2, 3].map((node) => connect(node));
    pods.forEach((pod) => pod.defineCommand('consume', { numberOfKeys: 1, lua }));
    const counted = await Promise.all(Array.from({ length: 60 }, (_, number) => pods[number % 3].consume('rlflx:org', 1, 60)));
    assert.deepEqual(counted.map(([consumed]) => consumed).sort((a, b) => a - b), Array.from({ length: 60 }, (_, number) => number + 1));
    assert.ok(counted.every(([, ttl]) => ttl > 0 && ttl <= 60_000));
  });

  test('recent events are kept in a window', STORY, async () => {
    const [web, worker] = [connect(2), connect(1)];
    const now = Date.now();
    const added = await web.pipeline().zadd('seen', now - 90_000, 'old').zadd('seen', now, 'new').expire('seen', 60).exec();
    assert.deepEqual(added, [[null, 1], [null, 1], [null, 1]]);
    const counted = await worker.pipeline().zremrangebyscore('seen', 0, now - 60_000).zcard('seen').exec();
    assert.deepEqual(counted, [[null, 1], [null, 1]]);
  });

  test('keys are found by scanning without the prefix option', STORY, async () => {
    const cache = connect(1);
    await Promise.all(Array.from({ length: 2500 }, (_, number) => cache.set(`scan:${number}`, 'x', 'EX', 60)));
    const bare = connect(3, { keyPrefix: '' });
    const found = new Set();
    let cursor = '0';
    do {
      const [next, keys] = await bare.scan(cursor, 'MATCH', 'langfuse:scan:*', 'COUNT', 1000);
      keys.forEach((key) => found.add(key));
      cursor = next;
    } while (cursor !== '0');
    assert.equal(found.size, 2500);
  });

  test('its health check and its connection are what it expects', STORY, async () => {
    const client = connect(2, { maxRetriesPerRequest: 1 });
    assert.equal(await client.ping(), 'PONG');
    const byUrl = new Redis(`redis://langfuse:langfuse-password@127.0.0.1:${cluster.ports[0]}`);
    open.push(byUrl);
    assert.equal(await byUrl.set('langfuse:session:1', 'x'), 'OK');
    assert.match(await client.info(), /^maxmemory_policy:noeviction/m);
    await waitUntil(() => client.status === 'ready');
  });
});
