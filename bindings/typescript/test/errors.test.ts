// Every kind of error, provoked and caught by its class.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import {
  CardLimits, CreateInvoiceRequest, Flashkit, InvoicePurpose, IssueCardRequest, LightningConfig, PayoutTerms,
  SimulatedLightning, VirtualBoltCard,
} from "../generated/node/index";
import { config, file, jmd, rate, refused, sat, UID } from "./engine";

async function shop(name: string) {
  const lightning = new SimulatedLightning();
  const kit = await Flashkit.open(config(file(name), LightningConfig.Simulated.new({ lightning })));
  const issuer = kit.issuerCredential();
  const merchant = await kit.createMerchant(issuer, {
    idempotencyKey: "merchant", name: "Cookshop", terms: PayoutTerms.create({}),
  });
  const { till, credential } = await kit.pairTill(issuer, {
    idempotencyKey: "till", merchantId: merchant.id, label: "1",
  });
  const sale = (price = jmd(100n), idempotencyKey = "sale") =>
    kit.createInvoice(credential, CreateInvoiceRequest.create({
      idempotencyKey, purpose: InvoicePurpose.Sale.new({ merchantId: merchant.id }), price, description: "Lunch",
    }));
  return { lightning, kit, issuer, merchant, till, credential, sale };
}

test("InvalidInput", async () => {
  const { kit, issuer, merchant, sale } = await shop("invalid.db");
  await refused(() => kit.getInvoice(issuer, merchant.id), "InvalidInput", "id.malformed");
  await refused(() => sale(jmd(0n)), "InvalidInput", "money.not_positive");
  await refused(() => sale(sat(1n), ""), "InvalidInput", "command.bad_key");
  await refused(() => kit.setRate({ ...rate(), currency: "J$" }), "InvalidInput", "money.unknown_currency");
  await refused(() => kit.peekCard("https://example.com"), "InvalidInput", "card.tap_malformed");
  const short = { ...config(file("short.db")), masterSecret: new Uint8Array(31) };
  await refused(() => Flashkit.open(short), "InvalidInput", "config.wrong_length");
  await kit.shutdown();
});

test("NotFound", async () => {
  const { kit, issuer } = await shop("not-found.db");
  const none = (prefix: string) => `${prefix}_${"0".repeat(32)}`;
  await refused(() => kit.getInvoice(issuer, none("inv")), "NotFound", "invoice.not_found");
  await refused(() => kit.getCard(issuer, none("card")), "NotFound", "card.not_found");
  await refused(() => kit.merchantBalance(issuer, none("mer")), "NotFound", "settlement.merchant_not_found");
  await refused(() => kit.getPayout(issuer, none("pay")), "NotFound", "settlement.payout_not_found");
  await refused(() => kit.getPointsProgram(issuer, none("prog")), "NotFound", "reward.program_not_found");
  await kit.shutdown();
});

test("Conflict", async () => {
  const { kit, issuer } = await shop("conflict.db");
  const again = { idempotencyKey: "merchant", name: "Another", terms: PayoutTerms.create({}) };
  await refused(() => kit.createMerchant(issuer, again), "Conflict", "command.key_reused");
  const issue = (idempotencyKey: string) =>
    kit.issueCard(issuer, IssueCardRequest.create({ idempotencyKey, uid: UID, limits: CardLimits.create({}) }));
  await issue("one");
  await refused(() => issue("two"), "Conflict", "card.already_issued");
  await kit.shutdown();
});

test("InsufficientFunds and Declined", async () => {
  const { kit, issuer, till, credential, sale } = await shop("declined.db");
  const card = await kit.issueCard(issuer, IssueCardRequest.create({
    idempotencyKey: "issue", uid: UID, limits: CardLimits.create({ perTap: 5_000n }),
  }));
  const chip = VirtualBoltCard.program(UID, await kit.programmingKeys(issuer, UID));
  const tap = chip.tap();
  const charge = (idempotencyKey: string, amount: bigint) =>
    kit.chargeCard(credential, { idempotencyKey, tap, price: sat(amount), reference: "" });
  await refused(() => charge("early", 1n), "Declined", "card.not_active");
  const { holderCredential } = await kit.activateCard(issuer, { idempotencyKey: "activate", cardId: card.id });
  await refused(() => kit.programmingKeys(issuer, UID), "Declined", "card.keys_withheld");
  await refused(() => charge("poor", 1n), "InsufficientFunds", "card.insufficient_funds");
  await refused(() => charge("much", 6n), "Declined", "card.limit_exceeded");
  await kit.freezeCard(holderCredential, { idempotencyKey: "freeze", cardId: card.id });
  await refused(() => charge("frozen", 1n), "Declined", "card.frozen");
  await refused(() => kit.trialBalance(credential), "Declined", "access.not_allowed");
  await refused(() => kit.trialBalance("nobody"), "Declined", "access.unknown");
  await kit.revokeTill(issuer, { idempotencyKey: "revoke", tillId: till.id });
  await refused(() => sale(), "Declined", "access.revoked");
  await kit.shutdown();
});

test("Unavailable", async () => {
  const { kit, sale } = await shop("unavailable.db");
  await refused(() => sale(), "Unavailable", "rate.unknown_currency");
  kit.setRate(rate(BigInt(Date.now()) - 3_600_000n));
  await refused(() => sale(), "Unavailable", "rate.stale", true);
  kit.setRate(rate());
  await refused(() => sale(), "Unavailable", "lightning.not_running", true);
  await refused(() => Flashkit.open(config(file("unavailable.db"))), "Unavailable", "store.in_use", true);
  await kit.shutdown();
  await refused(() => sale(), "Unavailable", "store.closed");
  const alone = await Flashkit.open(config(file("alone.db")));
  const { isBalanced, untied } = await alone.audit(alone.issuerCredential());
  assert.deepEqual([isBalanced, ...untied.map((it) => it.code)], [true, "lightning.no_node", "lightning.no_node"]);
  await alone.shutdown();
});

test("Storage", async () => {
  writeFileSync(file("garbage.db"), Buffer.alloc(8_192, 0x5a));
  await refused(() => Flashkit.open(config(file("garbage.db"))), "Storage", "store.corrupt");
});

test("Internal: a listener that throws what it must not", async () => {
  const lightning = new SimulatedLightning();
  const broken = { onEvent() { throw new Error("a bug in the app"); } };
  await refused(() => lightning.tryListener(broken), "Internal", "ffi.callback");
  await lightning.tryListener({ onEvent() {} });
});
