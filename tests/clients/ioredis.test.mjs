// Both documents' scenarios with ioredis 5 (RESP2, what applications run today) and ioredis 6 (RESP3).
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Redis as Redis5 } from 'ioredis';
import { Redis as Redis6 } from 'ioredis6';
import { PATTERN, SERVICES, againstValkey, start, waitUntil } from './cluster.mjs';

for (const [version, Redis] of [['ioredis 5', Redis5], ['ioredis 6', Redis6]]) {
  describe(`${version}: the pattern document`, () => {
    let cluster;
    const open = [];
    const connect = (node, username, password, options = {}) => {
      const client = new Redis({ host: '127.0.0.1', port: cluster.ports[node - 1], username, password, ...options });
      client.on('error', () => {}); // Each test looks at its own commands' errors.
      open.push(client);
      return client;
    };
    before(async () => { cluster = await start(PATTERN); });
    after(async () => {
      open.forEach((client) => client.disconnect());
      await cluster.stop();
    });

    test('an application uses its own keys through every node', async () => {
      for (const node of [1, 2, 3]) {
        const litellm = connect(node, 'litellm', 'litellm-password');
        assert.equal(await litellm.set('litellm:test:key', 'value'), 'OK');
        assert.equal(await litellm.get('litellm:test:key'), 'value');
      }
    });

    test("another application's keys are refused with the document's text", async () => {
      for (const node of [1, 2, 3]) {
        const litellm = connect(node, 'litellm', 'litellm-password');
        await assert.rejects(litellm.get('langfuse:test:key'), { message: cluster.denial('litellm', 'langfuse:test:key') });
        const langfuse = connect(node, 'langfuse', 'langfuse-password');
        await assert.rejects(langfuse.set('litellm:cache:123', 'x'), { message: cluster.denial('langfuse', 'litellm:cache:123') });
      }
    });

    test('a connection string works', async () => {
      const client = new Redis(`redis://langfuse:langfuse-password@127.0.0.1:${cluster.ports[2]}/0`);
      open.push(client);
      assert.equal(await client.set('langfuse:session:abc123', 'x', 'EX', 60), 'OK');
    });

    test('ACL LIST shows the rules', async () => {
      const lines = await connect(3, 'default', 'admin-password').call('ACL', 'LIST');
      for (const [user, key] of [['default', '~*'], ['litellm', '~litellm:*'], ['langfuse', '~langfuse:*']]) {
        const words = lines.find((line) => line.startsWith(`user ${user} `)).split(' ');
        assert.ok(words.includes('on') && words.includes(key) && words.includes('+@all'), words.join(' '));
      }
    });

    test('a change binds the next command of open connections on every node', async () => {
      const admin = connect(2, 'default', 'admin-password');
      await admin.call('ACL', 'SETUSER', 'app', 'on', '>secret', '~a:*', '+@all');
      const apps = [1, 2, 3].map((node) => connect(node, 'app', 'secret'));
      await Promise.all(apps.map((app) => app.get('a:1')));
      for (let round = 0; round < 20; round += 1) {
        const [granted, denied] = round % 2 === 0 ? ['b:1', 'a:1'] : ['a:1', 'b:1'];
        await admin.call('ACL', 'SETUSER', 'app', 'resetkeys', `~${granted[0]}:*`);
        for (const app of apps) {
          await app.get(granted);
          await assert.rejects(app.get(denied), /^ReplyError: NOPERM/);
        }
      }
    });

    test('a user deleted while connected is disconnected everywhere', async () => {
      const admin = connect(1, 'default', 'admin-password');
      await admin.call('ACL', 'SETUSER', 'leaving', 'on', '>secret', '~*', '+@all');
      const options = { retryStrategy: null, autoResubscribe: false, maxRetriesPerRequest: 0 };
      const leaving = [1, 2, 3].map((node) => connect(node, 'leaving', 'secret', options));
      await Promise.all(leaving.map((client) => client.ping()));
      assert.equal(await admin.call('ACL', 'DELUSER', 'leaving'), 1);
      await Promise.all(leaving.map((client) => waitUntil(async () => {
        if (client.status === 'end') return true;
        return client.ping().then(() => false, () => client.status === 'end');
      })));
    });

    test('many commands in one write are answered in order', async () => {
      const cache = connect(2, 'litellm', 'litellm-password', { enableAutoPipelining: true });
      const written = Array.from({ length: 500 }, (_, number) => cache.set(`litellm:auto:${number}`, `${number}`));
      assert.ok((await Promise.all(written)).every((reply) => reply === 'OK'));
      const read = Array.from({ length: 500 }, (_, number) => cache.get(`litellm:auto:${number}`));
      assert.deepEqual(await Promise.all(read), Array.from({ length: 500 }, (_, number) => `${number}`));
      const piped = await cache.pipeline().incr('litellm:n').expire('litellm:n', 60).ttl('litellm:n').get('langfuse:x').exec();
      assert.deepEqual(piped.slice(0, 3).map(([error, reply]) => [error, reply]), [[null, 1], [null, 1], [null, 60]]);
      assert.match(piped[3][0].message, /^NOPERM/);
    });

    test('the ready check sees a Redis that is not loading', async () => {
      const info = await connect(1, 'default', 'admin-password').info();
      assert.match(info, /^redis_version:7\./m);
      assert.match(info, /^loading:0/m);
      if (!againstValkey) assert.doesNotMatch(info, /valkey|dragonfly/i);
    });
  });

  describe(`${version}: the decision record`, () => {
    let cluster;
    const open = [];
    before(async () => { cluster = await start(SERVICES); });
    after(async () => {
      open.forEach((client) => client.disconnect());
      await cluster.stop();
    });
    const connect = (node, service) => {
      const client = new Redis({
        host: '127.0.0.1', port: cluster.ports[node - 1], username: `${service}-user`, password: `${service}-password`,
        keyPrefix: `${service}:`, // per-service prefix
      });
      client.on('error', () => {});
      open.push(client);
      return client;
    };

    test('five services with keyPrefix do not see each other', async () => {
      const services = ['gw', 'sub', 'prob', 'ghw', 'ai'];
      for (const [index, service] of services.entries()) {
        const client = connect((index % 3) + 1, service);
        assert.equal(await client.set('status:1', service), 'OK');
      }
      for (const [index, service] of services.entries()) {
        const client = connect(((index + 1) % 3) + 1, service);
        assert.equal(await client.get('status:1'), service);
        assert.deepEqual(await client.mget('status:1', 'status:2'), [service, null]);
      }
    });

    test('a service cannot leave its prefix or administer', async () => {
      const bare = new Redis({ host: '127.0.0.1', port: cluster.ports[0], username: 'gw-user', password: 'gw-password' });
      open.push(bare);
      await assert.rejects(bare.get('sub:status:1'), { message: cluster.denial('gw-user', 'sub:status:1') });
      await assert.rejects(bare.call('ACL', 'SETUSER', 'gw-user', 'allkeys'), /NOPERM User gw-user has no permissions to run the 'acl\|setuser' command/);
      await assert.rejects(bare.config('GET', '*'), /NOPERM/);
    });

    test('default is off', async () => {
      const stranger = new Redis({ host: '127.0.0.1', port: cluster.ports[1], enableReadyCheck: false, maxRetriesPerRequest: 0 });
      stranger.on('error', () => {});
      open.push(stranger);
      await assert.rejects(stranger.get('gw:status:1'), /NOAUTH/);
    });
  });
}
