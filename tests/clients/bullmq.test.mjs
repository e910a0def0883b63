// BullMQ, the queue that applications such as Langfuse run on a Redis: its producers, workers, schedulers and event streams,
// each on a node of its own. Knows nothing of the scripts behind them: what they leave is read through BullMQ alone.
// It is long because each of the queue's features is one story, told in order.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { FlowProducer, Queue, QueueEvents, RateLimitError, UnrecoverableError, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { NAMESPACE, PATTERN, start, waitUntil } from './cluster.mjs';

// A story that has not ended after so long waits for something that will not come.
const STORY = { timeout: 60_000 };

// Who uses the queue, and under which prefix: the open cluster, a hash tag as clusters want it, and the pattern document's
// confined user with its own prefix and with the tagged one that its rules name.
const SETTINGS = [
  { title: 'the default prefix', prefix: 'bull' },
  { title: 'a hash tag as prefix', prefix: '{bull}' },
  { title: 'a confined user', prefix: 'langfuse:queues', policy: PATTERN, username: 'langfuse', password: 'langfuse-password' },
  {
    title: 'a confined user with hash tags', prefix: '{langfuse:queues}', username: 'tagged', password: 'tagged-password',
    policy: `${PATTERN}\nuser tagged on >tagged-password ~{langfuse:* +@all\n`,
  },
  {
    title: 'a namespace, unmodified', prefix: 'bull', policy: NAMESPACE, username: 'langfuse', password: 'langfuse-password',
    namespace: 'langfuse',
  },
];

for (const { title, prefix, policy, username, password, namespace } of SETTINGS) {
  describe(`BullMQ with ${title}`, () => {
    let cluster;
    let stories = 0;
    let open = [];

    const connection = (node) => ({ host: '127.0.0.1', port: cluster.ports[node - 1], username, password });
    const keep = (thing) => {
      thing.on('error', () => {}); // Each story looks at its own jobs' outcome; connections break when the cluster stops.
      open.push(thing);
      return thing;
    };
    const queueOn = (node, name, options = {}) => keep(new Queue(name, { connection: connection(node), prefix, ...options }));
    const workerOn = async (node, name, work, options = {}) => {
      const worker = keep(new Worker(name, work, { connection: connection(node), prefix, drainDelay: 1, ...options }));
      await worker.waitUntilReady();
      return worker;
    };
    const eventsOn = async (node, name) => {
      const events = keep(new QueueEvents(name, { connection: connection(node), prefix, blockingTimeout: 1000, lastEventId: '0-0' }));
      await events.waitUntilReady();
      return events;
    };
    const story = () => { stories += 1; return `story-${stories}`; };
    const counted = (queue, wanted) => waitUntil(async () => {
      const counts = await queue.getJobCounts(...Object.keys(wanted));
      return Object.entries(wanted).every(([state, count]) => counts[state] === count);
    }, 20_000);

    before(async () => {
      cluster = await start(policy);
      if (namespace) await cluster.makeNamespace(namespace, username);
    }, STORY);
    afterEach(async () => {
      const closing = open;
      open = [];
      await Promise.all(closing.map((thing) => thing.close(true)));
    }, STORY);
    after(async () => {
      const denials = namespace ? await cluster.denials(username) : [];
      await cluster.stop();
      assert.deepEqual(denials, [], 'nothing was denied');
    }, STORY);

    test('jobs are added one by one and in bulk, counted, read and removed', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const first = await queue.add('one', { answer: 42, text: 'grüße', list: [] }, { jobId: 'custom-1' });
      assert.equal(first.id, 'custom-1');
      const bulk = await queue.addBulk(Array.from({ length: 100 }, (_, number) => ({ name: 'many', data: { number } })));
      assert.equal(bulk.length, 100);
      const elsewhere = queueOn(3, name);
      const { waiting, active, completed } = await elsewhere.getJobCounts('waiting', 'active', 'completed');
      assert.deepEqual([waiting, active, completed], [101, 0, 0]);
      assert.deepEqual((await elsewhere.getJob('custom-1')).data, { answer: 42, text: 'grüße', list: [] });
      assert.equal((await elsewhere.getJobs(['waiting'], 0, 9, true)).length, 10);
      assert.equal(await (await elsewhere.getJob('custom-1')).getState(), 'waiting');
      // The same id once more is the same job.
      await elsewhere.add('one', { answer: 43 }, { jobId: 'custom-1' });
      assert.equal(await queue.count(), 101);
      await (await queue.getJob('custom-1')).remove();
      assert.equal(await elsewhere.getJob('custom-1'), undefined);
      await queue.drain();
      assert.equal(await elsewhere.count(), 0);
    });

    test('two workers on two nodes share the work, each job done once', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const done = new Map();
      const work = (node) => async (job) => {
        done.set(job.id, [...(done.get(job.id) ?? []), node]);
        return job.data.number * 2;
      };
      await workerOn(2, name, work(2), { concurrency: 5 });
      await workerOn(3, name, work(3), { concurrency: 5 });
      await queue.addBulk(Array.from({ length: 300 }, (_, number) => ({ name: 'double', data: { number } })));
      await counted(queue, { completed: 300, waiting: 0, active: 0, failed: 0 });
      assert.equal(done.size, 300);
      assert.ok([...done.values()].every((nodes) => nodes.length === 1));
      assert.deepEqual(new Set([...done.values()].flat()), new Set([2, 3]));
      const finished = await queue.getCompleted(0, -1);
      assert.ok(finished.every((job) => job.returnvalue === job.data.number * 2));
    });

    test('an idle worker wakes for a job that another node brings', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const events = await eventsOn(2, name);
      await workerOn(3, name, async (job) => `hello ${job.data.to}`, { drainDelay: 30 });
      for (const to of ['ada', 'grace', 'edsger']) {
        const job = await queue.add('greet', { to });
        assert.equal(await job.waitUntilFinished(events, 10_000), `hello ${to}`);
      }
    });

    test('a failing job is tried again with backoff, then is failed, and can be retried by hand', STORY, async () => {
      const name = story();
      const queue = queueOn(2, name);
      let heal = false;
      await workerOn(1, name, async (job) => {
        if (job.name === 'hopeless') throw new UnrecoverableError('never');
        if (job.name === 'flaky' && job.attemptsMade < 2) throw new Error(`attempt ${job.attemptsMade}`);
        if (job.name === 'broken' && !heal) throw new Error('broken');
        return 'ok';
      });
      const flaky = await queue.add('flaky', {}, { attempts: 3, backoff: { type: 'exponential', delay: 20 } });
      const hopeless = await queue.add('hopeless', {}, { attempts: 5, backoff: 10 });
      const broken = await queue.add('broken', {}, { attempts: 2, backoff: { type: 'fixed', delay: 10 } });
      await counted(queue, { completed: 1, failed: 2, delayed: 0 });
      assert.equal((await queue.getJob(flaky.id)).attemptsMade, 3);
      assert.equal((await queue.getJob(hopeless.id)).attemptsMade, 1);
      const failed = await queue.getJob(broken.id);
      assert.deepEqual([failed.attemptsMade, failed.failedReason, failed.stacktrace.length], [2, 'broken', 2]);
      assert.deepEqual((await queue.getFailed()).map((job) => job.id).sort(), [hopeless.id, broken.id].sort());
      heal = true;
      await failed.retry();
      await counted(queue, { completed: 2, failed: 1 });
      await queue.retryJobs({ count: 10, state: 'completed' });
      await counted(queue, { completed: 2, failed: 1, waiting: 0, active: 0 });
    });

    test('a delayed job waits for its time, and can be promoted', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      await workerOn(2, name, async () => Date.now());
      const added = Date.now();
      const soon = await queue.add('soon', {}, { delay: 300 });
      const late = await queue.add('late', {}, { delay: 600_000 });
      assert.equal(await late.getState(), 'delayed');
      await counted(queue, { completed: 1, delayed: 1 });
      assert.ok((await queue.getJob(soon.id)).returnvalue - added >= 300);
      await late.changeDelay(900_000);
      await late.promote();
      await counted(queue, { completed: 2, delayed: 0 });
    });

    test('priorities go before order', STORY, async () => {
      const name = story();
      const queue = queueOn(3, name);
      await queue.addBulk([5, 1, 3, 2, 4].map((priority) => ({ name: `p${priority}`, data: {}, opts: { priority } })));
      await queue.add('now', {});
      await queue.add('first', {}, { lifo: true });
      assert.equal((await queue.getJobCounts('prioritized')).prioritized, 5);
      const order = [];
      await workerOn(1, name, async (job) => { order.push(job.name); });
      await counted(queue, { completed: 7 });
      assert.deepEqual(order, ['first', 'now', 'p1', 'p2', 'p3', 'p4', 'p5']);
    });

    test('a rate limiter holds for the workers of all nodes', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const started = Date.now();
      const limiter = { max: 5, duration: 500 };
      for (const node of [2, 3]) await workerOn(node, name, async () => Date.now(), { limiter });
      await queue.addBulk(Array.from({ length: 15 }, () => ({ name: 'limited', data: {} })));
      await counted(queue, { completed: 15 });
      assert.ok(Date.now() - started >= 1000, 'three windows of five jobs each last a second at least');
      await queue.setGlobalConcurrency(1);
      assert.equal(await queue.getGlobalConcurrency(), 1);
      await queue.removeGlobalConcurrency();
    });

    test('a worker that is told to slow down by its job', STORY, async () => {
      const name = story();
      const queue = queueOn(2, name);
      let refused = false;
      const worker = await workerOn(3, name, async () => {
        if (!refused) {
          refused = true;
          await worker.rateLimit(200);
          throw new RateLimitError();
        }
        return Date.now();
      }, { limiter: { max: 1, duration: 100 } });
      const job = await queue.add('slow', {});
      await counted(queue, { completed: 1 });
      const finished = await queue.getJob(job.id);
      assert.ok(finished.returnvalue - finished.timestamp >= 200);
    });

    test('a parent waits for its children and reads what they found', STORY, async () => {
      const [parents, children] = [story(), story()];
      const flow = keep(new FlowProducer({ connection: connection(1), prefix }));
      const queue = queueOn(2, parents);
      await workerOn(3, children, async (job) => job.data.value * 10);
      await workerOn(2, parents, async (job) => {
        const values = Object.values(await job.getChildrenValues());
        return values.reduce((sum, value) => sum + value, 0);
      });
      const tree = await flow.add({
        name: 'sum', queueName: parents,
        children: [1, 2, 3].map((value) => ({ name: 'leaf', queueName: children, data: { value } })),
      });
      await counted(queue, { completed: 1, 'waiting-children': 0 });
      assert.equal((await queue.getJob(tree.job.id)).returnvalue, 60);
      const dependencies = await (await queue.getJob(tree.job.id)).getDependenciesCount();
      assert.equal(dependencies.processed, 3);
      const seen = await flow.getFlow({ id: tree.job.id, queueName: parents, prefix });
      assert.equal(seen.children.length, 3);
    });

    test('a child that fails for good fails its parent when told to', STORY, async () => {
      const [parents, children] = [story(), story()];
      const flow = keep(new FlowProducer({ connection: connection(3), prefix }));
      const queue = queueOn(1, parents);
      await workerOn(2, children, async () => { throw new Error('child'); });
      await workerOn(3, parents, async () => 'never');
      await flow.add({
        name: 'parent', queueName: parents,
        children: [{ name: 'leaf', queueName: children, opts: { failParentOnFailure: true } }],
      });
      await counted(queue, { failed: 1, 'waiting-children': 0 });
      assert.match((await queue.getFailed())[0].failedReason, /child .* failed/);
    });

    test('a job scheduler repeats, is listed, changed and removed', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      let runs = 0;
      await workerOn(2, name, async () => { runs += 1; });
      await queue.upsertJobScheduler('tick', { every: 100 }, { name: 'tick', data: { n: 1 }, opts: { removeOnComplete: true } });
      await waitUntil(() => runs >= 3, 20_000);
      await queueOn(3, name).upsertJobScheduler('tick', { pattern: '0 0 3 1 1 *' }, { name: 'yearly', data: {} });
      const schedulers = await queue.getJobSchedulers();
      assert.deepEqual(schedulers.map((scheduler) => [scheduler.key, scheduler.pattern]), [['tick', '0 0 3 1 1 *']]);
      assert.equal((await queue.getJobScheduler('tick')).name, 'yearly');
      assert.equal(await queue.removeJobScheduler('tick'), true);
      assert.equal(await queue.getJobSchedulersCount(), 0);
      await counted(queue, { delayed: 0 });
    });

    test('a repeatable job of the older kind', STORY, async () => {
      const name = story();
      const queue = queueOn(2, name);
      let runs = 0;
      await workerOn(1, name, async () => { runs += 1; });
      await queue.add('again', {}, { repeat: { every: 100, limit: 3 }, removeOnComplete: true });
      await waitUntil(() => runs === 3, 20_000);
      await queue.add('daily', {}, { repeat: { pattern: '0 3 * * *' } });
      assert.equal((await queue.getRepeatableJobs()).filter((job) => job.name === 'daily').length, 1);
      assert.equal(await queue.removeRepeatable('daily', { pattern: '0 3 * * *' }), true);
    });

    test('a job whose worker died is taken over by another', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      let taken;
      const holding = new Promise((resolve) => { taken = resolve; });
      await workerOn(2, name, () => { taken(); return new Promise(() => {}); },
        { lockDuration: 300, skipLockRenewal: true, skipStalledCheck: true });
      const job = await queue.add('precious', {});
      await holding;
      const events = await eventsOn(1, name);
      const stalled = [];
      events.on('stalled', (told) => stalled.push(told.jobId));
      await workerOn(3, name, async () => 'saved', { stalledInterval: 300, maxStalledCount: 1 });
      await counted(queue, { completed: 1 });
      assert.equal((await queue.getJob(job.id)).returnvalue, 'saved');
      await waitUntil(() => stalled.length > 0, 20_000);
      assert.deepEqual(stalled, [job.id]);
    });

    test('events tell the life of jobs, in order', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const events = await eventsOn(3, name);
      const seen = [];
      for (const event of ['added', 'waiting', 'active', 'progress', 'completed', 'failed', 'delayed', 'removed', 'drained']) {
        events.on(event, (told) => seen.push([event, told.jobId ?? null]));
      }
      const job = await queue.add('tell', {});
      await workerOn(2, name, async (running) => {
        await running.updateProgress({ percent: 50 });
        await running.log('half way');
        await running.updateData({ changed: true });
        return 'told';
      });
      await waitUntil(() => seen.some(([event]) => event === 'completed'), 20_000);
      const mine = seen.filter(([, id]) => id === job.id).map(([event]) => event);
      assert.deepEqual(mine, ['added', 'waiting', 'active', 'progress', 'completed']);
      assert.deepEqual((await queue.getJobLogs(job.id)).logs, ['half way']);
      assert.deepEqual((await queue.getJob(job.id)).data, { changed: true });
      assert.ok(await queue.trimEvents(0) >= 5);
    });

    test('a paused queue keeps its jobs until it is resumed from another node', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      await workerOn(2, name, async () => 'ok');
      await queue.pause();
      await queue.add('held', {});
      assert.equal(await queue.isPaused(), true);
      assert.equal((await queue.getJobCounts('paused')).paused, 1);
      await queueOn(3, name).resume();
      await counted(queue, { completed: 1, paused: 0 });
    });

    test('finished jobs are kept by number, cleaned by age, measured', STORY, async () => {
      const name = story();
      const queue = queueOn(3, name);
      await workerOn(1, name, async (job) => { if (job.data.fail) throw new Error('no'); }, { metrics: { maxDataPoints: 60 } });
      const kept = { removeOnComplete: { count: 5 } };
      await queue.addBulk(Array.from({ length: 20 }, () => ({ name: 'done', data: {}, opts: kept })));
      await queue.addBulk(Array.from({ length: 4 }, () => ({ name: 'bad', data: { fail: true } })));
      await counted(queue, { completed: 5, failed: 4, waiting: 0, active: 0 });
      assert.equal((await queue.getMetrics('completed')).meta.count, 20);
      assert.equal((await queue.getMetrics('failed')).meta.count, 4);
      assert.equal((await queue.clean(0, 2, 'failed')).length, 2);
      assert.equal((await queue.clean(0, 100, 'completed')).length, 5);
      assert.deepEqual(await queue.getJobCounts('completed', 'failed'), { completed: 0, failed: 2 });
    });

    test('the same work is not queued twice while it is wanted', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      const deduplication = { id: 'once', ttl: 60_000 };
      const first = await queue.add('work', { n: 1 }, { deduplication });
      const second = await queueOn(2, name).add('work', { n: 2 }, { deduplication });
      assert.equal(second.id, first.id);
      assert.equal(await queue.count(), 1);
      assert.equal(await queue.getDeduplicationJobId('once'), first.id);
      assert.equal(await queue.removeDeduplicationKey('once'), 1);
    });

    test('workers are listed by name', STORY, async () => {
      const name = story();
      const queue = queueOn(1, name);
      await workerOn(1, name, async () => {}, { name: 'the-worker' });
      await waitUntil(async () => (await queue.getWorkers()).length === 1, 20_000);
    });

    test('an obliterated queue leaves no key', STORY, async () => {
      const name = story();
      const queue = queueOn(2, name);
      await queue.addBulk(Array.from({ length: 50 }, () => ({ name: 'gone', data: {}, opts: { delay: 1000 } })));
      await queue.add('gone', {});
      await queue.obliterate({ force: true });
      const redis = new Redis(connection(3));
      const left = [];
      for await (const keys of redis.scanStream({ match: `${prefix}:${name}:*`, count: 1000 })) left.push(...keys);
      redis.disconnect();
      assert.deepEqual(left, []);
    });

    if (policy && !namespace) {
      test('another prefix is refused', STORY, async () => {
        const queue = queueOn(1, story(), { prefix: 'litellm' });
        await assert.rejects(queue.add('foreign', {}), /NOPERM/);
        await assert.rejects(queue.getJobCounts('waiting'), /NOPERM/);
      });
    }
  });
}
