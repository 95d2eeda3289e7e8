// The package as its users get it: packed, installed into a fresh project, and loaded in each way.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');
const tools = createRequire(join(root, 'wasm/package.json'));
let project;

before(async () => {
  project = await mkdtemp(join(tmpdir(), 'ottla-package-'));
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', project], { cwd: join(root, 'wasm') });
  const [{ filename, files }] = Object.values(JSON.parse(stdout));
  const names = files.map(({ path }) => path);
  for (const needed of ['README.md', 'package.json', 'pkg/ottla.js', 'pkg/ottla.wasm', 'pkg/node.mjs', 'pkg/cjs/index.js']) {
    assert.ok(names.includes(needed), `${needed} is not packed`);
  }
  assert.ok(names.every((name) => /^(pkg\/|README\.md$|LICENSE$|package\.json$)/.test(name)), names.join(' '));
  await writeFile(join(project, 'package.json'), '{ "private": true }');
  const install = ['install', '--offline', '--no-audit', '--no-fund', '--ignore-scripts', `./${filename}`];
  await run('npm', install, { cwd: project });
});

after(() => rm(project, { recursive: true, force: true }));

/** Runs a program in the project and returns what it printed; it must end by itself. */
async function node(name, code, ...flags) {
  await writeFile(join(project, name), code);
  const { stdout, stderr } = await run(process.execPath, [...flags, name], { cwd: project, timeout: 60_000 });
  assert.equal(stderr, '');
  return stdout.trim();
}

const program = `
  async function main({ Broker }) {
    const broker = await Broker.open();
    await broker.producer({ compressionType: 'zstd' }).send({ topic: 't', value: 'hello' });
    const consumer = broker.consumer({ autoOffsetReset: 'earliest' });
    await consumer.subscribe(['t']);
    for await (const record of consumer) {
      console.log(record.text());
      break;
    }
    // Nothing is closed: a program that waits for nothing ends all the same.
  }`;

test('it loads as a module', async () => {
  assert.equal(await node('module.mjs', `import * as ottla from 'ottla';\n${program}\nawait main(ottla);`), 'hello');
});

test('it loads as CommonJS', async () => {
  assert.equal(await node('common.cjs', `const ottla = require('ottla');\n${program}\nmain(ottla);`), 'hello');
});

test('both ways load the same classes', async () => {
  const code = `
    import * as ottla from 'ottla';
    import { createRequire } from 'node:module';
    const required = createRequire(import.meta.url)('ottla');
    const names = Object.keys(required).sort();
    console.log(names.join(), names.every((name) => required[name] === ottla[name]), Object.keys(ottla).length === names.length);`;
  const names = 'Admin,Broker,Consumer,ConsumerRecord,KafkaError,OttlaError,Producer,load';
  assert.equal(await node('both.mjs', code), `${names} true true`);
});

test('it loads in a worker thread', async () => {
  const code = `
    import { Worker, isMainThread } from 'node:worker_threads';
    import * as ottla from 'ottla';
    ${program}
    if (isMainThread) {
      new Worker(new URL(import.meta.url)).on('error', (error) => { throw error; });
    } else {
      await main(ottla);
    }`;
  assert.equal(await node('worker.mjs', code), 'hello');
});

test('a program waits for what it has asked for, however quiet everything else is', async () => {
  const code = `
    import { Broker } from 'ottla';
    const broker = await Broker.open();
    const consumer = broker.consumer();
    consumer.assign([{ topic: 't', partition: 0 }]);
    console.log((await consumer.poll({ timeoutMs: 300 })).length);`;
  assert.equal(await node('waits.mjs', code), '0');
});

test('importing it does nothing', async () => {
  const code = `
    const before = process.getActiveResourcesInfo().length;
    await import('ottla');
    console.log(process.getActiveResourcesInfo().length <= before, process.memoryUsage().arrayBuffers < 1e6);`;
  assert.equal(await node('nothing.mjs', code), 'true true');
});

test('the quickstart runs', async () => {
  const code = await readFile(join(root, 'examples/quickstart.mjs'), 'utf8');
  const printed = await node('quickstart.mjs', code);
  assert.match(printed, /sent to partition 0 at offset 2/);
  assert.match(printed, /offset 0: Ottla says \{ hello: 'Ottla' \}/);
  assert.match(printed, /the group goes on at offset 3/);
});

test('types are whole, for each way of loading and for the examples', async () => {
  await cp(join(root, 'examples/quickstart.mjs'), join(project, 'quickstart.mjs'));
  const typed = `
    const record: Promise<ottla.RecordMetadata> = (null as unknown as ottla.Producer).send({ topic: 't', headers: [['a', null]] });
    const kind: ottla.ErrorKind = new ottla.KafkaError(3, 'UNKNOWN_TOPIC_OR_PARTITION', '', { kind: 'notFound' }).kind;
    // @ts-expect-error: only brokers make clients
    new ottla.Producer();
    // @ts-expect-error: there is no such codec
    const options: ottla.ProducerOptions = { compressionType: 'rar' };
    async function read(consumer: ottla.Consumer): Promise<void> {
      await using closing = consumer;
      for await (const { value, offset } of consumer.records({ idleMs: 5, signal: AbortSignal.timeout(5) })) {
        const bytes: Uint8Array | null = value;
        const next: number = offset + 1;
        void [bytes, next];
      }
      void closing;
    }
    void [record, kind, options, read];`;
  await writeFile(join(project, 'module.mts'), `import * as ottla from 'ottla';\n${typed}`);
  await writeFile(join(project, 'common.cts'), `import ottla = require('ottla');\n${typed}`);
  const tsc = join(dirname(tools.resolve('typescript/package.json')), 'bin/tsc');
  const strict = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--target', 'es2022'];
  const js = ['--allowJs', '--checkJs'];
  const lib = ['--lib', 'es2023,dom,dom.asynciterable'];
  const check = (...args) =>
    run(process.execPath, [tsc, '--ignoreConfig', ...strict, ...lib, ...args], { cwd: project }).catch(({ stdout }) => {
      assert.fail(stdout);
    });
  await check('--module', 'nodenext', ...js, 'module.mts', 'common.cts', 'quickstart.mjs');
  await check('--module', 'esnext', '--moduleResolution', 'bundler', 'module.mts');
});

/** What the module takes from JavaScript: values, promises, timers, the two clocks, randomness, `console.error`, the global object. */
const expected = new Set(
  `boolean_get is_falsy is_function is_null is_undefined
  number_get string_get throw Error call cb_unref clearTimeout entries error from generic get
  getRandomValues get_unchecked init_externref_table instanceof_Object isArray length new new_from_slice new_typed new_with_length now
  of prototypesetcall push queueMicrotask resolve setTimeout set_cause set_code set_kind set_message set_name set_retriable
  static_accessor_GLOBAL static_accessor_GLOBAL_THIS static_accessor_SELF static_accessor_WINDOW then unref unshift`.split(/\s+/),
);

test('the module imports what it is known to need, and nothing else', async () => {
  const installed = join(project, 'node_modules/ottla/pkg');
  const bytes = await readFile(join(installed, 'ottla.wasm'));
  const imports = WebAssembly.Module.imports(await WebAssembly.compile(bytes));
  const names = imports.map(({ name }) => name.replace(/^__(wbg__?_?(wbindgen|wbg)|wbg|wbindgen)_/, '').replace(/_[0-9a-f]{16}$/, ''));
  assert.deepEqual(names.filter((name) => !expected.has(name)), []);
  assert.deepEqual([...new Set(imports.map(({ module }) => module))], ['./glue_bg.js']);
  // Bundlers follow these, and there is one module only.
  const script = await readFile(join(installed, 'ottla.js'), 'utf8');
  assert.deepEqual(script.match(/new URL\([^)]*\)/g), ['new URL("./ottla.wasm", import.meta.url)']);
  // The glue brings no other file along.
  for (const file of ['ottla.js', 'cjs/index.js', 'node.mjs']) {
    const code = await readFile(join(installed, file), 'utf8');
    const needed = [...code.matchAll(/(?:\bfrom|\brequire\(|\bimport\()\s*["']([^"']+)["']/g)].map(([, name]) => name);
    const known = { 'ottla.js': [], 'cjs/index.js': ['node:fs/promises', 'node:path'], 'node.mjs': ['./cjs/index.js'] };
    assert.deepEqual(needed.sort(), known[file]);
  }
});

test('its size is known', async () => {
  const installed = join(project, 'node_modules/ottla/pkg');
  const sizes = [];
  for (const file of ['ottla.wasm', 'ottla.js']) {
    const bytes = await readFile(join(installed, file));
    sizes.push(`${file} ${(bytes.length / 1024).toFixed(0)} KiB, ${(gzipSync(bytes, { level: 9 }).length / 1024).toFixed(0)} KiB gzipped`);
  }
  let all = 0;
  for (const file of await readdir(installed, { recursive: true })) {
    const { size } = await stat(join(installed, file));
    all += size;
  }
  console.log(`# ${sizes.join('; ')}`);
  // A bound for the module as the tests build it: neither optimised over all crates nor by wasm-opt.
  assert.ok(all < 6 << 20, `${all} bytes`);
});
