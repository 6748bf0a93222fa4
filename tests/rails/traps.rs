//! What other systems get wrong about invoices, each by its name.

use std::sync::Arc;
use std::time::Duration;

use flashkit::invoices::{
    CancelInvoice, CaptureInvoice, ConfirmationTier, CreateInvoice, Custody, GivenAddress, Invoice,
    InvoiceFilter, InvoiceLine, InvoiceOptions, InvoiceOwner, InvoicePaymentState, InvoicePurpose,
    InvoiceState, MarkInvoice, MarkedAs, OnChainFact, OnChainPlace, Outpoint, PaymentRules, Rail,
    SetInvoicePolicy, SurplusTo,
};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::lightning::{LightningEvent, LightningNode};
use flashkit::money::{Currency, Price};
use flashkit::ports::Clock;
use flashkit::rates::FixedRates;
use flashkit::refunds::{RefundAmount, RefundState};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::nobodys_address;
use flashkit::testkit::clock::ManualClock;
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::SuspenseTarget;
use flashkit::{Engine, Settings};

use crate::refunds::{bolt11, order};
use crate::support::books::expect;
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, Merchant, SAT, jmd, sat};
use crate::support::{key, until};

pub(crate) struct Set {
    pub(crate) engine: Engine,
    pub(crate) store: MemoryStore,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) rates: Arc<FixedRates>,
    pub(crate) node: ScriptedNode,
    pub(crate) customer: Arc<Wallet>,
    /// Another wallet.
    pub(crate) payer: SimulatedNode,
    pub(crate) merchant: Merchant,
}

pub(crate) async fn set() -> Set {
    set_with(Settings::default()).await
}

pub(crate) async fn set_with(settings: Settings) -> Set {
    set_on(settings, |store| Arc::new(store)).await
}

/// On what is made of a store.
pub(crate) async fn set_on(
    settings: Settings,
    made_of: impl FnOnce(MemoryStore) -> Arc<dyn Store>,
) -> Set {
    let clock = Arc::new(ManualClock::at(1_800_000_000_000));
    let store = MemoryStore::new(clock.clone());
    let network = SimulatedNetwork::new(clock.clone());
    let node = ScriptedNode::new(network.node(100_000 * SAT));
    let rates = Arc::new(FixedRates::new());
    let builder = Engine::builder(made_of(store.clone()), shop::master())
        .network("regtest")
        .clock(clock.clone())
        .rates(rates.clone())
        .settings(settings)
        .lightning(Arc::new(node.clone()));
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    let customer = network.node(1_000_000 * SAT);
    customer.start().await.unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());
    let payer = network.node(1_000_000 * SAT);
    payer.start().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    let set = Set {
        engine,
        store,
        clock,
        rates,
        node,
        customer,
        payer,
        merchant,
    };
    set.rate("15000000");
    set
}

impl Set {
    pub(crate) fn rate(&self, text: &str) {
        let jmd = Currency::from_code("JMD").unwrap();
        self.rates
            .set(jmd, text.parse().unwrap(), "test", self.clock.now_ms());
    }

    pub(crate) fn command(
        &self,
        name: &str,
        price: Price,
        options: InvoiceOptions,
    ) -> CreateInvoice {
        CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price: Some(price),
            description: "Two patties and a coco bread".to_owned(),
            expiry_seconds: 600,
            options,
        }
    }

    pub(crate) async fn make(&self, command: CreateInvoice) -> Result<Invoice, &'static str> {
        let made = self
            .engine
            .invoices()
            .create(&self.engine.issuer(), command)
            .await;
        made.map(|made| made.value).map_err(|error| error.code())
    }

    pub(crate) async fn sale(&self, name: &str, price: Price, rules: PaymentRules) -> Invoice {
        let options = InvoiceOptions {
            rules: Some(rules),
            ..on_chain(name, Custody::Operator)
        };
        self.make(self.command(name, price, options)).await.unwrap()
    }

    pub(crate) async fn get(&self, invoice: &Invoice) -> Invoice {
        let found = self
            .engine
            .invoices()
            .get(&self.engine.issuer(), invoice.id)
            .await;
        found.unwrap().value
    }

    pub(crate) async fn until(&self, invoice: &Invoice, state: InvoiceState) -> Invoice {
        until(&format!("{state:?}"), || async {
            self.engine.run_due_jobs().await.unwrap();
            self.get(invoice).await.state == state
        })
        .await;
        self.get(invoice).await
    }

    /// What is true of an output to the invoice's address.
    pub(crate) async fn chain(
        &self,
        invoice: &Invoice,
        output: u8,
        sats: i64,
        place: OnChainPlace,
    ) -> Invoice {
        let fact = OnChainFact {
            outpoint: Outpoint {
                txid: [output; 32],
                vout: 0,
            },
            amount_sat: sats,
            first_known_ms: self.clock.now_ms(),
            place,
        };
        let address = invoice.on_chain.clone().unwrap().address;
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        assert!(
            invoices
                .observe_on_chain(&issuer, &address, &fact)
                .await
                .unwrap()
        );
        self.get(invoice).await
    }

    pub(crate) async fn offer(
        &self,
        invoice: &Invoice,
        amount_msat: i64,
        blocks_left: Option<u32>,
    ) -> Invoice {
        self.node.inject(LightningEvent::Claimable {
            payment_hash: invoice.lightning.last().unwrap().payment_hash,
            amount_msat,
            blocks_left,
        });
        until("it is dealt with", || async { self.node.waiting() == 0 }).await;
        self.get(invoice).await
    }

    pub(crate) async fn over_lightning(&self, invoice: &Invoice, amount_msat: i64) -> Invoice {
        let payment_hash = invoice.lightning.last().unwrap().payment_hash;
        self.offer(invoice, amount_msat, None).await;
        self.node.inject(LightningEvent::Received {
            payment_hash,
            amount_msat,
        });
        until("it is dealt with", || async { self.node.waiting() == 0 }).await;
        self.get(invoice).await
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn events(&self, invoice: &Invoice) -> Vec<String> {
        let events = self.store.events(0, 1_000).await.unwrap();
        let of_it = events
            .into_iter()
            .filter(|event| event.object == invoice.id.to_string());
        of_it
            .map(|event| event.kind.replace("invoice.", ""))
            .collect()
    }

    pub(crate) async fn expect(&self, step: &str, lines: &[(Account, i64)]) {
        expect(&self.engine, step, lines).await;
    }

    pub(crate) fn payable(&self) -> Account {
        Account::merchant_payable(self.merchant.id)
    }
}

pub(crate) fn on_chain(name: &str, custody: Custody) -> InvoiceOptions {
    InvoiceOptions {
        rails: vec![Rail::Lightning, Rail::OnChain],
        address: Some(GivenAddress {
            address: nobodys_address(name),
            custody,
        }),
        ..InvoiceOptions::default()
    }
}

pub(crate) fn after(confirmations: u32) -> PaymentRules {
    PaymentRules {
        confirmations: vec![ConfirmationTier {
            up_to_msat: i64::MAX,
            confirmations,
        }],
        ..PaymentRules::NONE
    }
}

pub(crate) fn block(confirmations: u32) -> OnChainPlace {
    OnChainPlace::Block {
        height: 100,
        hash: "ab".repeat(32),
        confirmations,
    }
}

pub(crate) const MEMPOOL: OnChainPlace = OnChainPlace::Mempool { replaceable: false };
pub(crate) const GONE: OnChainPlace = OnChainPlace::Gone { replaced_by: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_settled_unconfirmed_and_was_double_spent_is_settled_no_more() {
    let set = set().await;
    let sale = set.sale("zero", sat(1_000), after(0)).await;
    assert_eq!(
        set.chain(&sale, 1, 1_000, MEMPOOL).await.state,
        InvoiceState::Settled
    );
    set.expect(
        "booked",
        &[
            (Account::node_onchain(), 1_000 * SAT),
            (set.payable(), 1_000 * SAT),
        ],
    )
    .await;
    let gone = set.chain(&sale, 1, 1_000, GONE).await;
    assert_eq!(
        (gone.state, gone.flags.reorged_msat),
        (InvoiceState::New, 1_000 * SAT)
    );
    set.expect("undone", &[]).await;
    assert_eq!(set.events(&sale).await, ["created", "settled", "reorged"]);
    // One that says that it may be replaced is never settled without a block.
    let replaceable = OnChainPlace::Mempool { replaceable: true };
    assert_eq!(
        set.chain(&sale, 2, 1_000, replaceable).await.state,
        InvoiceState::Processing
    );
    assert_eq!(
        set.chain(&sale, 2, 1_000, block(1)).await.state,
        InvoiceState::Settled
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorg_after_the_money_was_paid_out_is_owed_by_whoever_had_it() {
    let set = set().await;
    let sale = set.sale("spent", sat(10_000), after(1)).await;
    set.chain(&sale, 1, 10_000, block(1)).await;
    let bolt11 = set.customer.invoice(9_000 * SAT, "payout").await.unwrap();
    // The node has the money for it from elsewhere.
    let rich = set.sale("rich", sat(20_000), PaymentRules::NONE).await;
    set.customer.pay(&rich.bolt11).await.unwrap();
    set.until(&rich, InvoiceState::Settled).await;
    for (name, bolt11) in [
        ("a", bolt11),
        ("b", set.customer.invoice(19_000 * SAT, "b").await.unwrap()),
    ] {
        let command = flashkit::settlement::RequestPayout {
            key: key(name),
            merchant: set.merchant.id,
            bolt11,
        };
        let paid = set
            .engine
            .settlement()
            .request_payout(&set.engine.issuer(), command)
            .await;
        let id = paid.unwrap().id;
        until("paid out", || async {
            let payout = set
                .engine
                .settlement()
                .payout(&set.engine.issuer(), id)
                .await
                .unwrap();
            payout.state == flashkit::settlement::PayoutState::PaidOut
        })
        .await;
    }
    let reorged = set.chain(&sale, 1, 10_000, MEMPOOL).await;
    assert_eq!(reorged.state, InvoiceState::Processing);
    let receivable = Account::merchant_receivable(set.merchant.id);
    let lines = [
        (Account::node_channels(), -8_000 * SAT),
        (Account::fee_income(), 280 * SAT),
        (receivable, 8_280 * SAT),
    ];
    set.expect("the rest is owed", &lines).await;
    // It comes back, in another block, and is booked once more: what is owed comes out of it.
    assert_eq!(
        set.chain(&sale, 1, 10_000, block(1)).await.state,
        InvoiceState::Settled
    );
    let lines = [
        (Account::node_channels(), -8_000 * SAT),
        (Account::node_onchain(), 10_000 * SAT),
        (Account::fee_income(), 280 * SAT),
        (set.payable(), 1_720 * SAT),
    ];
    set.expect("nobody has it twice", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_and_over_and_under_and_marked_stand_beside_each_other() {
    let set = set().await;
    let rules = PaymentRules {
        surplus: Some(SurplusTo::Refund),
        accept_late_within_per_mille: Some(0),
        ..after(1)
    };
    let sale = set.sale("flags", sat(1_000), rules).await;
    let part = set.chain(&sale, 1, 400, block(1)).await;
    assert_eq!(
        (part.state, part.flags.underpaid_msat),
        (InvoiceState::New, 600 * SAT)
    );
    set.pass(700);
    assert_eq!(
        set.until(&sale, InvoiceState::Expired)
            .await
            .flags
            .underpaid_msat,
        600 * SAT
    );
    let over = set.chain(&sale, 2, 900, block(1)).await;
    assert_eq!(over.state, InvoiceState::Settled);
    let flags = &over.flags;
    assert_eq!(
        (flags.late_msat, flags.overpaid_msat),
        (900 * SAT, 300 * SAT)
    );
    assert_eq!(over.refund_due_msat, 300 * SAT);
    // Marked keeps what is missing and what was paid.
    let other = set.sale("marked", sat(1_000), after(1)).await;
    set.chain(&other, 3, 400, block(1)).await;
    let command = MarkInvoice {
        key: key("mark"),
        invoice: other.id,
        as_state: MarkedAs::Settled,
        reason: "the rest in cash".to_owned(),
    };
    let marked = set
        .engine
        .invoices()
        .mark(&set.engine.issuer(), command)
        .await
        .unwrap();
    assert_eq!(
        (marked.state, marked.flags.underpaid_msat),
        (InvoiceState::Settled, 600 * SAT)
    );
    assert_eq!(
        marked.flags.marked.as_ref().unwrap().missing_msat,
        600 * SAT
    );
    // Said otherwise in the same millisecond, it is told as that.
    let command = MarkInvoice {
        key: key("mark again"),
        invoice: other.id,
        as_state: MarkedAs::Invalid,
        reason: "the cash was not".to_owned(),
    };
    let invoices = set.engine.invoices();
    invoices.mark(&set.engine.issuer(), command).await.unwrap();
    let events = set.events(&other).await;
    assert_eq!(events[events.len() - 2..], ["marked", "marked"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_taken_and_the_rest_is_asked_for_by_a_text_of_its_own() {
    let set = set().await;
    let sale = set.sale("rest", sat(1_000), after(1)).await;
    // On chain first: what the first text asks for is too much now, and goes back.
    set.node.set_inbound_msat(0);
    set.chain(&sale, 1, 400, MEMPOOL).await;
    // The channels have no room for the rest: it is asked for once they do.
    set.engine.run_due_jobs().await.unwrap();
    assert_eq!(set.get(&sale).await.lightning.len(), 1);
    set.node.set_inbound_msat(600 * SAT);
    set.pass(61);
    until("the rest is asked for", || async {
        set.engine.run_due_jobs().await.unwrap();
        set.get(&sale).await.lightning.len() == 2
    })
    .await;
    let now = set.get(&sale).await;
    assert_eq!(now.lightning[1].amount_msat, Some(600 * SAT));
    assert_ne!(now.lightning[1].payment_hash, sale.payment_hash);
    let address = nobodys_address("rest");
    let text = format!("bitcoin:{address}?amount=0.00000600&lightning=lnbcrt");
    assert!(now.bip21().unwrap().starts_with(&text));
    set.customer.send(&sale.bolt11).await.unwrap();
    set.customer.pay(&now.bolt11).await.unwrap();
    let both = set.until(&sale, InvoiceState::Processing).await;
    assert_eq!(both.payments.len(), 2, "{:#?}", both.payments);
    let done = set.chain(&sale, 1, 400, block(1)).await;
    let done = if done.state == InvoiceState::Settled {
        done
    } else {
        set.until(&sale, InvoiceState::Settled).await
    };
    assert_eq!(
        (done.received_msat, &done.flags),
        (1_000 * SAT, &flashkit::invoices::InvoiceFlags::default())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_payment_is_taken_only_while_the_rate_stayed_near() {
    let set = set().await;
    let rules = PaymentRules {
        accept_late_within_per_mille: Some(10),
        ..PaymentRules::NONE
    };
    let near = set.sale("near", jmd(150_000), rules.clone()).await;
    let far = set.sale("far", jmd(150_000), rules.clone()).await;
    let stale = set.sale("stale", jmd(150_000), rules).await;
    let strict = set.sale("strict", jmd(150_000), PaymentRules::NONE).await;
    set.pass(3_600);
    set.until(&strict, InvoiceState::Expired).await;
    // Nobody knows the rate any more.
    assert_eq!(
        set.offer(&stale, stale.amount_msat, None).await.payments,
        []
    );
    set.rate("15149999");
    assert_eq!(
        set.offer(&strict, strict.amount_msat, None).await.payments,
        []
    );
    let taken = set.over_lightning(&near, near.amount_msat).await;
    assert_eq!(
        (taken.state, taken.flags.late_msat),
        (InvoiceState::Settled, near.amount_msat)
    );
    set.rate("15200000");
    assert_eq!(set.offer(&far, far.amount_msat, None).await.payments, []);
    // On chain it cannot go back: it waits for a person, and the card or merchant has nothing.
    let late = set.chain(&far, 1, 10_000, block(1)).await;
    assert_eq!(
        (late.state, late.flags.late_msat),
        (InvoiceState::Expired, 10_000 * SAT)
    );
    let issuer = set.engine.issuer();
    let items = set
        .engine
        .treasury()
        .suspense(&issuer, None, 10)
        .await
        .unwrap()
        .value;
    assert_eq!((items.len(), items[0].amount_msat), (1, 10_000 * SAT));
    // And when the chain takes it away, there is nothing to assign.
    set.chain(&far, 1, 10_000, GONE).await;
    let command = flashkit::treasury::AssignSuspense {
        key: key("assign"),
        item: items[0].id,
        to: SuspenseTarget::Operator,
        reason: "mine".to_owned(),
    };
    let refused = set
        .engine
        .treasury()
        .assign_suspense(&issuer, command)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "treasury.suspense_assigned");
    set.expect(
        "only the near one",
        &[
            (Account::node_channels(), near.amount_msat),
            (set.payable(), near.amount_msat),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_and_over_by_rule_and_rounding_is_neither() {
    let set = set().await;
    let price = Price::Bitcoin {
        amount_msat: 1_000_500,
    };
    let none = set.sale("none", price, after(1)).await;
    assert_eq!(
        set.offer(&none, 1_000_499, None).await.payments,
        [],
        "too little"
    );
    assert_eq!(
        set.offer(&none, 1_001_500, None).await.payments,
        [],
        "too much"
    );
    // Whole sats cannot be closer.
    let rounded = set.chain(&none, 1, 1_001, block(1)).await;
    assert_eq!(
        (rounded.state, rounded.flags.overpaid_msat),
        (InvoiceState::Settled, 0)
    );
    let rules = PaymentRules {
        accept_under_per_mille: 5,
        surplus: Some(SurplusTo::Tip),
        ..after(1)
    };
    let under = set.sale("under", sat(1_000), rules.clone()).await;
    assert_eq!(set.offer(&under, 994_999, None).await.payments, []);
    let enough = set.over_lightning(&under, 995_000).await;
    assert_eq!(
        (enough.state, enough.flags.underpaid_msat),
        (InvoiceState::Settled, 5_000)
    );
    let over = set.sale("over", sat(1_000), rules).await;
    let tipped = set.over_lightning(&over, 1_200_000).await;
    assert_eq!(
        (tipped.state, tipped.flags.overpaid_msat),
        (InvoiceState::Settled, 200_000)
    );
    assert_eq!(tipped.received_msat, 1_000_000);
    let all = 1_001_000 + 995_000 + 1_200_000;
    let lines = [
        (Account::node_channels(), all - 1_001_000),
        (Account::node_onchain(), 1_001_000),
        (set.payable(), all),
    ];
    set.expect("all is the merchant's", &lines).await;
}

fn parsed(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

pub(crate) async fn held(set: &Set, name: &str) -> Invoice {
    let options = InvoiceOptions {
        hold: true,
        ..InvoiceOptions::default()
    };
    set.make(set.command(name, sat(1_000), options))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_captured_or_goes_back_and_never_both() {
    let set = set().await;
    let (one, two) = (held(&set, "one").await, held(&set, "two").await);
    for invoice in [&one, &two] {
        set.customer.send(&invoice.bolt11).await.unwrap();
        let waits = set.until(invoice, InvoiceState::Processing).await;
        assert_eq!(waits.payments[0].state, InvoicePaymentState::Authorized);
    }
    assert_eq!(
        set.node.claimed.lock().unwrap().len(),
        0,
        "nothing is claimed yet"
    );
    let (invoices, till) = (set.engine.invoices(), &set.merchant.till);
    let command = CaptureInvoice {
        key: key("capture"),
        invoice: one.id,
    };
    invoices.capture(till, command.clone()).await.unwrap();
    set.until(&one, InvoiceState::Settled).await;
    let command = CancelInvoice {
        key: key("cancel"),
        invoice: two.id,
    };
    assert_eq!(
        invoices.cancel(till, command).await.unwrap().state,
        InvoiceState::Invalid
    );
    let back = set.get(&two).await;
    assert_eq!(back.payments[0].state, InvoicePaymentState::Void);
    let command = CaptureInvoice {
        key: key("too late"),
        invoice: two.id,
    };
    assert_eq!(
        invoices.capture(till, command).await.unwrap_err().code(),
        "invoice.not_authorized"
    );
    set.expect(
        "one of two",
        &[
            (Account::node_channels(), 1_000 * SAT),
            (set.payable(), 1_000 * SAT),
        ],
    )
    .await;
}

/// A guest pays in cash what was held as well: what is held goes back, over Lightning and by book, and
/// nobody captures it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_goes_back_when_a_person_says_what_became_of_it() {
    let mut set = set().await;
    let paid = shop::sale(&set.engine, &set.merchant, "paid", sat(10_000)).await;
    let paid = set.over_lightning(&paid, paid.amount_msat).await;
    let other = shop::merchant(&set.engine, "Other").await;
    let own = std::mem::replace(&mut set.merchant, other);
    for (name, as_state, state) in [
        ("cash", MarkedAs::Settled, InvoiceState::Settled),
        ("invalid", MarkedAs::Invalid, InvoiceState::Invalid),
    ] {
        let by_network = held(&set, &format!("{name}/network")).await;
        set.customer.send(&by_network.bolt11).await.unwrap();
        set.until(&by_network, InvoiceState::Processing).await;
        let by_book = held(&set, &format!("{name}/book")).await;
        let to = bolt11(&by_book.bolt11);
        let order = order(
            name,
            &paid,
            to,
            RefundAmount::Bitcoin {
                amount_msat: 1_000 * SAT,
            },
        );
        let refund = set.refund(order).await.unwrap();
        for invoice in [&by_network, &by_book] {
            let now = set.get(invoice).await;
            assert_eq!(now.payments[0].state, InvoicePaymentState::Authorized);
            let (invoices, issuer) = (set.engine.invoices(), set.engine.issuer());
            let command = MarkInvoice {
                key: key(&format!("mark/{}", invoice.id)),
                invoice: invoice.id,
                as_state,
                reason: "paid in cash".to_owned(),
            };
            invoices.mark(&issuer, command).await.unwrap();
            let command = CaptureInvoice {
                key: key(&format!("capture/{}", invoice.id)),
                invoice: invoice.id,
            };
            let captured = invoices.capture(&set.merchant.till, command).await;
            assert_eq!(captured.unwrap_err().code(), "invoice.not_authorized");
            let now = set.get(invoice).await;
            let gone = now.payments[0].state;
            assert_eq!(
                (now.state, gone),
                (state, InvoicePaymentState::Void),
                "{name}"
            );
        }
        set.until_refund(&refund, RefundState::Failed).await;
    }
    assert_eq!(set.node.claimed.lock().unwrap().len(), 1, "the sale alone");
    set.merchant = own;
    let lines = [
        (Account::node_channels(), 10_000 * SAT),
        (set.payable(), 10_000 * SAT),
    ];
    set.expect("all of it went back", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_goes_back_before_its_deadline() {
    let set = set().await;
    set.node.set_height(Some(100));
    let invoice = held(&set, "deadline").await;
    assert_eq!(
        set.offer(&invoice, invoice.amount_msat, Some(2))
            .await
            .payments,
        [],
        "no time to claim it"
    );
    let waits = set.offer(&invoice, invoice.amount_msat, Some(40)).await;
    assert_eq!(waits.payments[0].claim_deadline_height, Some(140));
    set.node.set_height(Some(137));
    set.pass(30);
    set.engine.run_due_jobs().await.unwrap();
    assert_eq!(set.get(&invoice).await.state, InvoiceState::Processing);
    set.node.set_height(Some(138));
    set.pass(120);
    let back = set.until(&invoice, InvoiceState::New).await;
    until("it has gone back", || async {
        set.engine.run_due_jobs().await.unwrap();
        set.get(&invoice).await.payments[0].state == InvoicePaymentState::Void
    })
    .await;
    assert!(back.flags.marked.is_none());
    set.expect("nothing", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rail_that_cannot_be_made_says_why_and_the_others_go_on() {
    let set = set().await;
    set.node.set_inbound_msat(0);
    let open = CreateInvoice {
        price: None,
        ..set.command("open", sat(1), InvoiceOptions::default())
    };
    assert_eq!(
        set.make(open).await.unwrap_err(),
        "lightning.no_inbound_capacity"
    );
    set.node.set_inbound_msat(999_999);
    let alone = set
        .make(set.command("alone", sat(1_000), InvoiceOptions::default()))
        .await;
    assert_eq!(alone.unwrap_err(), "lightning.no_inbound_capacity");
    let both = set.sale("both", sat(1_000), PaymentRules::NONE).await;
    assert_eq!(
        (both.unavailable.len(), both.unavailable[0].rail),
        (1, Rail::Lightning)
    );
    assert_eq!(both.unavailable[0].code, "lightning.no_inbound_capacity");
    assert!(
        both.unavailable[0].detail.contains("999999"),
        "{}",
        both.unavailable[0].detail
    );
    assert_eq!((both.bolt11.as_str(), both.on_chain.is_some()), ("", true));
    set.node.set_inbound_msat(i64::MAX);
    let small = set.sale("small", sat(545), PaymentRules::NONE).await;
    assert_eq!(small.unavailable[0].code, "chain.dust");
    assert!(!small.bolt11.is_empty());
    // What had no room for all of it has room for the rest of it.
    set.node.set_inbound_msat(600 * SAT);
    set.chain(&both, 1, 400, block(1)).await;
    until("the rest is asked for", || async {
        set.engine.run_due_jobs().await.unwrap();
        set.get(&both).await.lightning.len() == 1
    })
    .await;
    let rest = set.get(&both).await;
    assert_eq!(rest.lightning[0].amount_msat, Some(600 * SAT));
    assert_eq!((rest.unavailable.len(), rest.bolt11.is_empty()), (0, false));
    set.customer.pay(&rest.bolt11).await.unwrap();
    let paid = set.until(&both, InvoiceState::Settled).await;
    assert_eq!(paid.received_msat, 1_000 * SAT);
    let reused = set.command("reused", sat(1_000), on_chain("both", Custody::Operator));
    assert_eq!(
        set.make(reused).await.unwrap_err(),
        "ledger.already_claimed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_the_operators_is_in_no_account() {
    let set = set().await;
    let command = set.command("own", sat(1_000), on_chain("own", Custody::Merchant));
    let sale = set.make(command).await.unwrap();
    assert_eq!(
        set.chain(&sale, 1, 1_500, block(1)).await.state,
        InvoiceState::Settled
    );
    // 1,000 sats count; the operator keeps 1 % of a payout, and so much of this.
    set.expect(
        "it is the merchant's own wallet, and the operator's fee is owed",
        &[
            (Account::merchant_receivable(set.merchant.id), 10 * SAT),
            (Account::fee_income(), 10 * SAT),
        ],
    )
    .await;
    assert_eq!(
        set.chain(&sale, 1, 1_500, GONE).await.state,
        InvoiceState::New
    );
    set.expect("nothing is owed for what the chain took away", &[])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_pays_chooses_where_no_price_is_said() {
    let set = set().await;
    let mut command = set.command("open", sat(1), on_chain("open", Custody::Operator));
    command.price = None;
    let open = set.make(command).await.unwrap();
    assert_eq!(open.lightning[0].amount_msat, None);
    let paid = set.over_lightning(&open, 777_000).await;
    assert_eq!(
        (paid.state, paid.received_msat),
        (InvoiceState::Settled, 777_000)
    );
    let more = set.chain(&open, 1, 1_000, block(1)).await;
    assert_eq!(
        (more.received_msat, more.flags.overpaid_msat),
        (1_777_000, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_orders_are_refused_with_a_code() {
    let set = set().await;
    let line = |quantity, unit_price_minor, tax_minor| InvoiceLine {
        description: "patty".to_owned(),
        quantity,
        unit_price_minor,
        tax_minor,
    };
    let lines = |lines: Vec<InvoiceLine>, tip_minor| InvoiceOptions {
        lines,
        tip_minor,
        ..InvoiceOptions::default()
    };
    let good = lines(vec![line(2, 400, 50), line(1, 50, 0)], 100);
    assert!(
        set.make(set.command("good", jmd(1_000), good))
            .await
            .is_ok()
    );
    for (name, options, code) in [
        (
            "sum",
            lines(vec![line(2, 400, 50)], 100),
            "invoice.lines_do_not_add_up",
        ),
        (
            "tip",
            lines(vec![line(1, 1_100, 0)], -100),
            "invoice.lines_do_not_add_up",
        ),
        (
            "huge",
            lines(vec![line(u32::MAX, i64::MAX, i64::MAX)], i64::MAX),
            "invoice.lines_do_not_add_up",
        ),
        (
            "none",
            lines(vec![line(0, 1_000, 0)], 0),
            "command.out_of_bounds",
        ),
        (
            "many",
            lines(vec![line(1, 10, 0); 101], 0),
            "command.out_of_bounds",
        ),
    ] {
        assert_eq!(
            set.make(set.command(name, jmd(1_000), options))
                .await
                .unwrap_err(),
            code,
            "{name}"
        );
    }
    let mut nested = serde_json::json!(1);
    for _ in 0..40 {
        nested = serde_json::json!([nested]);
    }
    for (at, value) in [
        serde_json::json!("x".repeat(8_192)),
        nested,
        serde_json::json!({"a": ["\0"]}),
        // They would not come back as they are.
        parsed(r#"{"order": 123456789012345678901234}"#),
        parsed("[0.1234567890123456]"),
        parsed("-1e300"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut options = InvoiceOptions::default();
        options.metadata.insert("bomb".to_owned(), value);
        let refused = set
            .make(set.command(&format!("bomb{at}"), jmd(1_000), options))
            .await;
        assert_eq!(refused.unwrap_err(), "command.out_of_bounds");
    }
    let kept = r#"{"order":18446744073709551615,"price":1.5,"rate":-0.12345678901234}"#;
    let mut options = InvoiceOptions::default();
    options.metadata.insert("kept".to_owned(), parsed(kept));
    let made = set.make(set.command("kept", jmd(1_000), options)).await;
    let made = set.get(&made.unwrap()).await;
    assert_eq!(made.options.metadata["kept"].to_string(), kept);
    let zero = set.command("zero", sat(0), InvoiceOptions::default());
    assert_eq!(set.make(zero).await.unwrap_err(), "money.not_positive");
    // A till may not choose its own rules.
    let options = InvoiceOptions {
        rules: Some(PaymentRules::NONE),
        ..InvoiceOptions::default()
    };
    let command = set.command("soft", sat(1), options);
    let refused = set
        .engine
        .invoices()
        .create(&set.merchant.till, command)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "access.not_allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_of_a_merchant_hold_for_what_is_made_after_them() {
    let set = set().await;
    let before = set
        .make(set.command("before", sat(1_000), InvoiceOptions::default()))
        .await
        .unwrap();
    let command = SetInvoicePolicy {
        key: key("policy"),
        merchant: set.merchant.id,
        rules: PaymentRules {
            accept_under_per_mille: 100,
            ..PaymentRules::NONE
        },
    };
    set.engine
        .invoices()
        .set_policy(&set.engine.issuer(), command)
        .await
        .unwrap();
    let after = set
        .make(set.command("after", sat(1_000), InvoiceOptions::default()))
        .await
        .unwrap();
    assert_eq!(set.offer(&before, 950_000, None).await.payments, []);
    assert_eq!(
        set.over_lightning(&after, 950_000).await.state,
        InvoiceState::Settled
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invoices_are_found_by_state_time_order_and_word_page_by_page() {
    let set = set().await;
    let mut made = Vec::new();
    for number in 0..7 {
        let options = InvoiceOptions {
            order_reference: format!("Table {}", number % 2),
            ..InvoiceOptions::default()
        };
        made.push(
            set.make(set.command(&format!("{number}"), sat(1_000), options))
                .await
                .unwrap(),
        );
        set.pass(1);
    }
    set.over_lightning(&made[3], 1_000_000).await;
    let owner = InvoiceOwner::Merchant {
        merchant: set.merchant.id,
    };
    let of = |filter: InvoiceFilter| {
        let set = &set;
        async move {
            let (mut after, mut found) = (None, Vec::new());
            loop {
                let page = set
                    .engine
                    .invoices()
                    .search(&set.merchant.till, &filter, after, 2)
                    .await;
                let page = page.map_err(|error| error.code())?.value;
                found.extend(page.invoices.iter().map(|invoice| invoice.id.to_string()));
                after = page.next;
                if after.is_none() {
                    return Ok::<_, &'static str>(found);
                }
            }
        }
    };
    let ids = |of: &[usize]| {
        of.iter()
            .map(|at| made[*at].id.to_string())
            .collect::<Vec<_>>()
    };
    let filter = || InvoiceFilter {
        owner,
        ..InvoiceFilter::default()
    };
    assert_eq!(of(filter()).await.unwrap(), ids(&[0, 1, 2, 3, 4, 5, 6]));
    let settled = InvoiceFilter {
        state: Some(InvoiceState::Settled),
        ..filter()
    };
    assert_eq!(of(settled).await.unwrap(), ids(&[3]));
    let order = InvoiceFilter {
        order_reference: Some("TABLE 1".to_owned()),
        ..filter()
    };
    assert_eq!(of(order).await.unwrap(), ids(&[1, 3, 5]));
    let word = |text: &str| InvoiceFilter {
        word_prefix: Some(text.to_owned()),
        ..filter()
    };
    assert_eq!(of(word("Coc")).await.unwrap().len(), 7);
    // `patties` and `two` alone do not make it twice; `t` begins both `table` and `two`.
    assert_eq!(of(word("t")).await.unwrap().len(), 7);
    assert_eq!(of(word("xyz")).await.unwrap().len(), 0);
    let time = InvoiceFilter {
        from_ms: Some(made[2].created_at_ms),
        until_ms: Some(made[5].created_at_ms),
        ..filter()
    };
    assert_eq!(of(time).await.unwrap(), ids(&[2, 3, 4]));
    assert_eq!(
        of(InvoiceFilter::default()).await.unwrap_err(),
        "access.not_allowed"
    );
}
