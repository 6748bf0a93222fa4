// Sell, pay, tap, earn, settle: the whole business on one SQLite file and a simulated Lightning
// network, with every amount checked.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CardLimits, CreateInvoiceRequest, type EngineEvent, Flashkit, InvoicePurpose, InvoiceState, IssueCardRequest,
  LightningConfig, PayoutState, PayoutTerms, SimulatedLightning, VirtualBoltCard,
} from "../generated/node/index";
import { config, file, jmd, rate, refused, SAT, sat, settled, UID, until } from "./engine";

test("the main job", async () => {
  const lightning = new SimulatedLightning();
  const setup = config(file("main.db"), LightningConfig.Simulated.new({ lightning }));
  const customer = await lightning.wallet(1_000_000n * SAT);
  const ownNode = await lightning.wallet(100_000n * SAT);
  let kit = await Flashkit.open(setup);
  await kit.start();
  kit.setRate(rate());
  const issuer = kit.issuerCredential();

  const merchant = await kit.createMerchant(issuer, {
    idempotencyKey: "merchant", name: "Cookshop", terms: PayoutTerms.create({}),
  });
  const paired = await kit.pairTill(issuer, { idempotencyKey: "till", merchantId: merchant.id, label: "till 1" });
  const till = paired.credential;
  const program = await kit.createPointsProgram(issuer, {
    idempotencyKey: "program", merchantId: merchant.id, name: "Points", earnBps: 200, pointValueMsat: SAT,
  });

  // An invoice priced in Jamaican dollars, paid by the customer's wallet.
  const invoice = await kit.createInvoice(till, CreateInvoiceRequest.create({
    idempotencyKey: "sale", purpose: InvoicePurpose.Sale.new({ merchantId: merchant.id }),
    price: jmd(150_000n), description: "Lunch",
  }));
  assert.equal(invoice.amountMsat, 10_000n * SAT);
  assert.equal(invoice.quote?.rate, "15000000.00");
  assert.equal(invoice.state, InvoiceState.New);
  await customer.pay(invoice.bolt11);
  await settled(kit, till, invoice.id);
  assert.equal((await kit.merchantBalance(till, merchant.id)).availableMsat, 10_000n * SAT);
  // Paid once, it cannot be paid again.
  await refused(() => ownNode.pay(invoice.bolt11), "Declined", "lightning.refused");

  // A card: made, written, handed over, topped up.
  const card = await kit.issueCard(issuer, IssueCardRequest.create({
    idempotencyKey: "issue", uid: UID, limits: CardLimits.create({ timeZone: "America/Jamaica" }),
  }));
  const chip = VirtualBoltCard.program(UID, await kit.programmingKeys(issuer, UID));
  const { holderCredential: holder } = await kit.activateCard(issuer, { idempotencyKey: "activate", cardId: card.id });
  const topUp = await kit.topUpCard(holder, { idempotencyKey: "top-up", cardId: card.id, price: sat(50_000n) });
  await customer.pay(topUp.bolt11);
  await settled(kit, holder, topUp.id);

  // A tap: looking uses nothing up, the charge does.
  const tap = chip.tap();
  for (const _ of [1, 2]) assert.equal((await kit.peekCard(tap)).balanceMsat, 50_000n * SAT);
  const charge = (idempotencyKey: string) =>
    kit.chargeCard(till, { idempotencyKey, tap, price: jmd(300_000n), reference: "table 4" });
  const charged = await charge("charge");
  assert.deepEqual([charged.amountMsat, charged.points], [20_000n * SAT, 400n]);
  await refused(() => charge("another"), "Declined", "card.tap_replayed");
  assert.deepEqual(await charge("charge"), charged);
  await refused(() => kit.peekCard(tap), "Declined", "card.tap_replayed");
  assert.equal((await kit.getCard(holder, card.id)).balanceMsat, 30_000n * SAT);

  // The points came in the commit of the charge, and are money again.
  assert.equal((await kit.pointsBalance(holder, card.id, program.id)).points, 400n);
  await kit.redeemPoints(holder, { idempotencyKey: "redeem", cardId: card.id, programId: program.id, points: 400n });
  assert.equal((await kit.pointsBalance(holder, card.id, program.id)).points, 0n);
  const history = await kit.cardHistory(holder, card.id);
  assert.deepEqual(history.transfers.map((transfer) => transfer.amount), [400n * SAT, 20_000n * SAT, 50_000n * SAT]);

  // The merchant is paid out to its own node, less a fee.
  const quote = await kit.quotePayout(till, merchant.id);
  assert.deepEqual([quote.amountMsat, quote.feeMsat], [29_306n * SAT, 293_060n]);
  const payout = await kit.requestPayout(issuer, {
    idempotencyKey: "payout", merchantId: merchant.id, bolt11: ownNode.invoice(quote.amountMsat, "payout"),
  });
  await until("the merchant is paid out", async () =>
    (await kit.getPayout(till, payout.id)).state === PayoutState.PaidOut);
  assert.equal(ownNode.balanceMsat(), (100_000n + 29_306n) * SAT);
  assert.deepEqual((await kit.listPayouts(till, merchant.id)).payouts.map((one) => one.id), [payout.id]);

  // The books.
  const books = await kit.trialBalance(issuer);
  assert.ok(books.isBalanced);
  for (const totals of books.totals) assert.equal(totals.debits, totals.credits);
  const balance = (account: string) => books.lines.find((line) => line.account.startsWith(account))?.balance;
  assert.equal(balance("node_channels/"), "30694000");
  assert.equal(balance("merchant_payable/"), "940");
  assert.equal(balance("card_balance/"), "30400000");
  assert.equal(balance("fee_income/"), "293060");
  assert.equal(balance("reward_fund/"), "0");
  const audit = await kit.audit(issuer);
  assert.ok(audit.isBalanced && audit.controls.every((control) => control.isExplained));

  // A cursor outlives the engine.
  const [first] = await kit.nextEvents(issuer, "app", 1);
  assert.ok(first);
  await kit.acknowledgeEvents(issuer, "app", first.position);
  await kit.shutdown();
  await kit.shutdown();
  await refused(() => kit.trialBalance(issuer), "Unavailable", "store.closed");
  kit = await Flashkit.open(setup);
  await kit.start();
  const rest = await kit.nextEvents(issuer, "app", 1_000);
  assert.equal(rest[0]?.position, first.position + 1n);
  const settledOnce = rest.filter((event) => event.kind === "invoice.settled").map((event) => event.objectId);
  assert.deepEqual(settledOnce, [invoice.id, topUp.id]);
  assert.equal(JSON.parse(rest.find((event) => event.objectId === invoice.id)!.bodyJson).amount_msat, 10_000_000);

  // A listener hears the same; what it throws at comes again.
  const heard: EngineEvent[] = [];
  await kit.setListener(issuer, "app", {
    onEvent(event) {
      heard.push(event);
      if (heard.length === 1) throw new Error("a bug in the app");
    },
  });
  await until("the listener has heard everything", () => heard.length > rest.length);
  assert.deepEqual(heard[0], heard[1]);
  assert.deepEqual(heard.slice(1), rest);
  await until("it is acknowledged", async () => (await kit.nextEvents(issuer, "app")).length === 0);
  kit.clearListener();
  await kit.shutdown();
});
