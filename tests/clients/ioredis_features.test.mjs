// ioredis 5 (RESP2) and 6 (RESP3) where commands wait, watch, listen and run scripts, between clients of different nodes.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Redis as Redis5 } from 'ioredis';
import { Redis as Redis6 } from 'ioredis6';
import { start, waitUntil } from './cluster.mjs';

const STORY = { timeout: 30_000 };

for (const [version, Redis] of [['ioredis 5', Redis5], ['ioredis 6', Redis6]]) {
  describe(`${version}: waiting, watching, listening`, () => {
    let cluster;
    let stories = 0;
    const open = [];
    const connect = (node, options = {}) => {
      const client = new Redis({ host: '127.0.0.1', port: cluster.ports[node - 1], ...options });
      client.on('error', () => {});
      open.push(client);
      return client;
    };
    const fresh = () => { stories += 1; return `story:${version}:${stories}`; };
    // At whichever node serves the client that waits.
    const blocked = () => waitUntil(async () => {
      const told = await Promise.all([1, 2, 3].map((node) => connect(node).info('clients')));
      return told.some((info) => Number(/blocked_clients:(\d+)/.exec(info)[1]) > 0);
    }, 10_000);
    before(async () => { cluster = await start(); }, { timeout: 60_000 });
    after(async () => {
      open.forEach((client) => client.disconnect());
      await cluster.stop();
    });

    test('a transaction is carried out as one, and read on another node', STORY, async () => {
      const key = fresh();
      const answers = await connect(2).multi().set(key, '1').incr(key).hset(`${key}:h`, { a: 1 }).get(key).exec();
      assert.deepEqual(answers, [[null, 'OK'], [null, 2], [null, 1], [null, '2']]);
      assert.equal(await connect(3).get(key), '2');
      const failed = await connect(1).multi().set(key, 'text').incr(key).exec();
      assert.equal(failed[0][1], 'OK');
      assert.match(failed[1][0].message, /not an integer/);
      await assert.rejects(connect(1).multi().set(key, 'never').call('NOSUCHCOMMAND').exec(), /EXECABORT/);
      const plain = connect(2);
      await plain.multi({ pipeline: false });
      assert.equal(await plain.set(key, 'queued'), 'QUEUED');
      assert.equal(await plain.discard(), 'OK');
      assert.equal(await plain.get(key), 'text');
    });

    test('a watched key that another node changed undoes the transaction', STORY, async () => {
      const key = fresh();
      const [watcher, other] = [connect(1), connect(3)];
      await watcher.watch(key);
      await other.set(key, 'theirs');
      await waitUntil(async () => await watcher.get(key) === 'theirs');
      assert.equal(await watcher.multi().set(key, 'mine').exec(), null);
      assert.equal(await other.get(key), 'theirs');
      await watcher.watch(key);
      assert.deepEqual(await watcher.multi().set(key, 'mine').exec(), [[null, 'OK']]);
    });

    test('subscribers of every node hear what any node publishes', STORY, async () => {
      const key = fresh();
      const heard = [];
      for (const node of [1, 2, 3]) {
        const listener = connect(node);
        listener.on('message', (channel, text) => heard.push(`${node} ${channel} ${text}`));
        listener.on('pmessage', (pattern, channel, text) => heard.push(`${node} ${pattern} ${channel} ${text}`));
        listener.on('messageBuffer', (channel, text) => assert.ok(Buffer.isBuffer(text)));
        assert.equal(await listener.subscribe(key), 1);
        assert.equal(await listener.psubscribe(`${key}:*`), 2);
      }
      const expected = [];
      for (const node of [1, 2, 3]) {
        await connect(node).publish(key, `from ${node}`);
        await connect(node).publish(`${key}:x`, `from ${node}`);
        for (const listening of [1, 2, 3]) {
          expected.push(`${listening} ${key} from ${node}`, `${listening} ${key}:* ${key}:x from ${node}`);
        }
      }
      await waitUntil(() => heard.length >= expected.length, 10_000);
      assert.deepEqual(heard.sort(), expected.sort());
    });

    test('a subscriber that lost its connection subscribes again', STORY, async () => {
      const key = fresh();
      const heard = [];
      const listener = connect(2, { retryStrategy: () => 20, connectionName: key.replaceAll(' ', '-') });
      listener.on('message', (channel, text) => heard.push(text));
      await listener.subscribe(key);
      // It is listed at the node that serves it, which need not be the one it connected to.
      const nodes = [1, 2, 3].map((node) => connect(node, { connectionName: 'asking' }));
      const lists = await Promise.all(nodes.map((node) => node.client('LIST')));
      const serving = lists.findIndex((list) => list.includes(`name=${key.replaceAll(' ', '-')} `) && / sub=1 /.test(list));
      const line = lists[serving].split('\n').find((client) => client.includes(`name=${key.replaceAll(' ', '-')} `) && client.includes(' sub=1 '));
      assert.equal(await nodes[serving].client('KILL', 'ID', /id=(\d+)/.exec(line)[1]), 1);
      const publisher = connect(1);
      await waitUntil(async () => { await publisher.publish(key, 'again'); return heard.length > 0; }, 10_000);
    });

    test('a sharded channel reaches its subscribers', STORY, async () => {
      const key = fresh();
      const listener = connect(3);
      const heard = new Promise((resolve) => listener.on('smessage', (channel, text) => resolve([channel, text])));
      assert.equal(await listener.ssubscribe(key), 1);
      await connect(1).spublish(key, 'sharded');
      assert.deepEqual(await heard, [key, 'sharded']);
    });

    test('a script defined as a command runs alone, in pipelines and in transactions', STORY, async () => {
      const key = fresh();
      const lua = "local n = redis.call('INCRBY', KEYS[1], ARGV[1]) return {n, cjson.encode({n = n}), redis.status_reply('FINE')}";
      for (const [index, node] of [1, 2, 3].entries()) {
        const client = connect(node, { scripts: { bump: { numberOfKeys: 1, lua } } });
        const base = index * 3;
        assert.deepEqual(await client.bump(key, 1), [base + 1, `{"n":${base + 1}}`, 'FINE']);
        const piped = await client.pipeline().bump(key, 1).get(key).exec();
        assert.deepEqual(piped, [[null, [base + 2, `{"n":${base + 2}}`, 'FINE']], [null, `${base + 2}`]]);
        const one = await client.multi().bump(key, 1).get(key).exec();
        assert.deepEqual(one[1], [null, `${base + 3}`]);
      }
      await connect(1).script('FLUSH');
      const client = connect(2, { scripts: { bump: { numberOfKeys: 1, lua } } });
      assert.equal((await client.bump(key, 1))[0], 10);
      await connect(2).script('FLUSH');
      assert.equal((await client.bump(key, 1))[0], 11);
      await assert.rejects(connect(3).evalsha('f'.repeat(40), 0), /^ReplyError: NOSCRIPT/);
    });

    test('a script that fails says why', STORY, async () => {
      const client = connect(1);
      await assert.rejects(client.eval("return redis.error_reply('MINE said so')", 0), /^ReplyError: MINE said so/);
      await assert.rejects(client.eval("return redis.call('GET')", 0), /Wrong number of args/i);
      await assert.rejects(client.eval('this is no Lua', 0), /Error compiling script/);
      const plain = await client.eval("return {1, 'two', {3}, false, true, 4.7}", 0);
      assert.deepEqual(plain, [1, 'two', [3], null, 1, 4]);
    });

    test('waiting pops are served from another node', STORY, async () => {
      const key = fresh();
      const [waiting, writing] = [connect(2), connect(3)];
      const popped = waiting.blpop(key, 10);
      await blocked();
      await writing.rpush(key, 'one');
      assert.deepEqual(await popped, [key, 'one']);
      const least = waiting.bzpopmin(`${key}:z`, 10);
      await blocked();
      await writing.zadd(`${key}:z`, 2, 'b', 1, 'a');
      const [name, member, score] = await least;
      assert.deepEqual([name, member, Number(score)], [`${key}:z`, 'a', 1]);
      const moved = waiting.blmove(`${key}:from`, `${key}:to`, 'LEFT', 'RIGHT', 10);
      await blocked();
      await writing.rpush(`${key}:from`, 'x');
      assert.equal(await moved, 'x');
      assert.equal(await waiting.blpop(key, 0.05), null);
    });

    test('a stream is read by a waiting client', STORY, async () => {
      const key = fresh();
      const reader = connect(3);
      const read = reader.xread('BLOCK', 10_000, 'STREAMS', key, '$');
      await blocked();
      const id = await connect(1).xadd(key, 'MAXLEN', '~', 1000, '*', 'word', 'new');
      const reply = await read;
      const [[name, entries]] = Array.isArray(reply) ? reply : Object.entries(reply);
      assert.equal(name, key);
      assert.deepEqual(entries, [[id, ['word', 'new']]]);
    });

    test('many scripts and commands in one write are answered in order', STORY, async () => {
      const key = fresh();
      const client = connect(2, { enableAutoPipelining: true });
      client.defineCommand('echoed', { numberOfKeys: 1, lua: "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]" });
      const asked = Array.from({ length: 300 }, (_, number) => (
        number % 2 ? client.echoed(`${key}:${number}`, number) : client.set(`${key}:${number}`, number, 'GET')));
      const answers = await Promise.all(asked);
      assert.deepEqual(answers, Array.from({ length: 300 }, (_, number) => (number % 2 ? `${number}` : null)));
    });
  });
}
