// What the tests share: a config, a price, a wait, and an error caught by type.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import {
  FixedRate, FlashError, FlashError_Tags, type Flashkit, FlashkitConfig, InvoiceState, LightningConfig, Network, Price,
} from "../generated/node/index";

export const SAT = 1_000n;
export const UID = "04a39493cc8680";

const folder = mkdtempSync(join(tmpdir(), "flashkit-"));
after(() => rmSync(folder, { recursive: true }));
export const file = (name: string) => join(folder, name);

/** One bitcoin is fifteen million Jamaican dollars, as of now. */
export const rate = (observedAtMs = BigInt(Date.now())) =>
  FixedRate.create({ currency: "JMD", rate: "15000000.00", source: "test", observedAtMs });

export const config = (databasePath: string, lightning: LightningConfig = new LightningConfig.NoNode()) =>
  FlashkitConfig.create({
    databasePath, masterSecret: new Uint8Array(32).fill(7), network: Network.Regtest, lightning,
  });

export const jmd = (minorUnits: bigint): Price => Price.Fiat.new({ currency: "JMD", minorUnits });
export const sat = (amount: bigint): Price => Price.Bitcoin.new({ amountMsat: amount * SAT });

export async function until(what: string, ask: () => Promise<boolean> | boolean) {
  const begun = Date.now();
  while (!(await ask())) {
    assert.ok(Date.now() - begun < 30_000, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export const settled = (kit: Flashkit, credential: string, invoice: string) =>
  until("the invoice is settled", async () =>
    (await kit.getInvoice(credential, invoice)).state === InvoiceState.Settled);

const kinds = {
  InvalidInput: FlashError.InvalidInput, NotFound: FlashError.NotFound, Conflict: FlashError.Conflict,
  InsufficientFunds: FlashError.InsufficientFunds, Declined: FlashError.Declined,
  Unavailable: FlashError.Unavailable, Storage: FlashError.Storage, Internal: FlashError.Internal,
};

/** The call must fail with this kind, caught by its class, and with this code. */
export async function refused(call: () => unknown, kind: keyof typeof kinds, code: string, retryable = false) {
  let caught: unknown;
  try {
    await call();
  } catch (error) {
    caught = error;
  }
  assert.ok(FlashError.instanceOf(caught), `${kind} ${code}: ${String(caught)}`);
  assert.ok(caught instanceof Error && caught instanceof kinds[kind], String(caught));
  assert.equal(Object.values(kinds).filter((other) => (caught as object) instanceof other).length, 1);
  assert.equal(caught.tag, FlashError_Tags[kind]);
  assert.deepEqual([caught.inner.code, caught.inner.retryable], [code, retryable]);
  assert.ok(caught.inner.detail.length > 0);
  assert.equal(String(caught), `${code}: ${caught.inner.detail}`);
}
