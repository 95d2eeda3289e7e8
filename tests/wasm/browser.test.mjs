// The package in a real browser: Debian's Chromium, driven by playwright-core.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { serve } from './serve.mjs';

const root = join(import.meta.dirname, '../..');
const executablePath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => path && existsSync(path),
);
const skip = !executablePath && process.env.CI !== 'true' && 'Chromium is missing: scripts/apt chromium';

describe('in Chromium', { skip }, () => {
  let browser;
  let server;

  before(async () => {
    assert.ok(executablePath, 'Chromium is missing: scripts/apt chromium');
    const { chromium } = createRequire(join(root, 'wasm/package.json'))('playwright-core');
    server = await serve(root);
    browser = await chromium.launch({
      executablePath,
      args: [
        ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
  });

  after(async () => {
    await browser?.close();
    await server?.close();
  });

  /** Runs `act` on a fresh page, and fails if anything on it did. */
  async function onPage(act, address = server.address) {
    const page = await browser.newPage({ viewport: { width: 900, height: 640 } });
    const failures = [];
    page.on('pageerror', (error) => failures.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && !/favicon/.test(message.location().url) && failures.push(message.text()));
    try {
      await act(page, address);
      assert.deepEqual(failures, []);
    } finally {
      await page.close();
    }
  }

  test('the example page produces and consumes', () =>
    onPage(async (page, address) => {
      await page.goto(`${address}/examples/browser.html`);
      await page.waitForSelector('#status[data-state=ready], #status[data-state=failed]', { timeout: 60_000 });
      assert.match(await page.textContent('#status'), /^cluster .*kept in memory/);
      await page.fill('input[name=key]', 'mine');
      await page.fill('input[name=value]', 'from a person');
      await page.click('button');
      await page.waitForFunction(() => document.querySelectorAll('#records tr').length === 6, undefined, { timeout: 10_000 });
      const rows = await page.$$eval('#records tr', (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
      assert.deepEqual(rows[0].slice(2), ['mine', 'from a person', 'zstd']);
      assert.deepEqual(rows.slice(1).map((row) => row[4]).sort(), ['gzip', 'lz4', 'none', 'snappy', 'zstd']);
      assert.equal(await page.textContent('#produced'), '6');
      assert.equal(await page.textContent('#consumed'), '6');
      const shots = join(root, 'target/screenshots');
      mkdirSync(shots, { recursive: true });
      await page.screenshot({ path: join(shots, 'browser.png') });
      console.log(`# 10,000 records in Chromium: sent in ${await page.textContent('#sent')}, read in ${await page.textContent('#read')}`);
    }));

  test('the package runs in a worker', () =>
    onPage(async (page, address) => {
      await page.goto(`${address}/tests/wasm/empty.html`);
      const text = await page.evaluate(
        (module) =>
          new Promise((resolve, reject) => {
            const code = `
              import { Broker } from ${JSON.stringify(module)};
              const broker = await Broker.open();
              await broker.producer().send({ topic: 't', value: 'from a worker' });
              const consumer = broker.consumer({ autoOffsetReset: 'earliest' });
              await consumer.subscribe(['t']);
              for await (const record of consumer) { postMessage(record.text()); break; }`;
            const url = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
            const worker = new Worker(url, { type: 'module' });
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = ({ message }) => reject(new Error(message));
          }),
        `${address}/wasm/pkg/ottla.js`,
      );
      assert.equal(text, 'from a worker');
    }));

  test('a page stays responsive while records flow', () =>
    onPage(async (page, address) => {
      await page.goto(`${address}/tests/wasm/empty.html`);
      const frames = await page.evaluate(async (module) => {
        const { Broker } = await import(module);
        const broker = await Broker.open();
        const producer = broker.producer();
        let frames = 0;
        const frame = () => (frames++, requestAnimationFrame(frame));
        requestAnimationFrame(frame);
        const until = performance.now() + 500;
        while (performance.now() < until) {
          await producer.send({ topic: 't', value: 'x' });
        }
        await broker.close();
        return frames;
      }, `${address}/wasm/pkg/ottla.js`);
      assert.ok(frames >= 5, `${frames} frames in half a second`);
    }));

  test('the module loads from a server that does not know its type, and from elsewhere', async () => {
    const plain = await serve(root, { mime: false });
    try {
      await onPage(async (page, address) => {
        await page.goto(`${address}/tests/wasm/empty.html`);
        const opened = await page.evaluate(async (base) => {
          const { Broker, load, OttlaError } = await import(`${base}/wasm/pkg/ottla.js`);
          const before = await load(`${base}/tests/wasm/empty.html`).catch((error) => error);
          await load(`${base}/wasm/pkg/ottla.wasm`);
          const broker = await Broker.open();
          await broker.close();
          return [before instanceof OttlaError, before.kind];
        }, address);
        assert.deepEqual(opened, [true, 'unsupported']);
      }, plain.address);
    } finally {
      await plain.close();
    }
  });
});
