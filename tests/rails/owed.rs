//! What a merchant owes is taken first out of what comes in for it; hold invoices keep to their
//! deadlines; a surplus goes on a card only where that can be.

use flashkit::cards::{
    ActivateCard, CardLimits, CardPaymentState, CardProgramTerms, ChargeCard, CreateCardProgram,
    FreezeCard, IssueCard, PayWithCard,
};
use flashkit::ids::{CardId, CardProgramId};
use flashkit::invoices::{
    CancelInvoice, CaptureInvoice, CreateInvoice, Custody, Invoice, InvoiceOptions,
    InvoicePaymentState, InvoicePurpose, InvoiceState, PaymentRules, SurplusTo,
};
use flashkit::ledger::{Account, TransferKind};
use flashkit::money::{Asset, Currency};
use flashkit::rewards::{BudgetMove, MoveRewardBudget};
use flashkit::settlement::{CreateMerchant, PayoutState, PayoutTerms, RequestPayout};
use flashkit::store::Store;
use flashkit::testkit::virtual_card::VirtualCard;
use sha2::{Digest, Sha256};

use crate::support::key;
use crate::support::shop::{self, HeldCard, Merchant, SAT, sat};
use crate::traps::{GONE, Set, block, held, on_chain, set};

impl Set {
    /// A sale that is paid to the merchant's own wallet.
    async fn to_own_wallet(&self, name: &str, output: u8, sats: i64) {
        let command = self.command(name, sat(sats), on_chain(name, Custody::Merchant));
        let sale = self.make(command).await.unwrap();
        let paid = self.chain(&sale, output, sats, block(1)).await;
        assert_eq!(paid.state, InvoiceState::Settled);
    }

    async fn owed(&self) -> (i64, i64) {
        let settlement = self.engine.settlement();
        let issuer = self.engine.issuer();
        let balance = settlement.balance(&issuer, self.merchant.id).await.unwrap();
        (balance.receivable_msat / SAT, balance.available_msat / SAT)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fee_of_a_sale_to_an_own_wallet_is_owed_and_taken_first_out_of_later_sales() {
    let set = set().await;
    set.to_own_wallet("own", 1, 50_000).await;
    assert_eq!(set.owed().await, (500, 0));
    // A sale over Lightning brings less than what is owed: all of it goes there.
    let sale = shop::sale(&set.engine, &set.merchant, "small", sat(200)).await;
    set.over_lightning(&sale, 200 * SAT).await;
    assert_eq!(set.owed().await, (300, 0));
    // A charge pays the rest.
    let mut card = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(10_000)).await;
    let command = ChargeCard {
        key: key("charge"),
        tap: card.chip.tap(),
        price: sat(1_000),
        reference: String::new(),
        pin: None,
    };
    let cards = set.engine.cards();
    cards.charge(&set.merchant.till, command).await.unwrap();
    assert_eq!(set.owed().await, (0, 700));
    // Nothing is owed: a charge moves nothing but its own.
    let command = ChargeCard {
        key: key("second"),
        tap: card.chip.tap(),
        price: sat(1_000),
        reference: String::new(),
        pin: None,
    };
    cards.charge(&set.merchant.till, command).await.unwrap();
    assert_eq!(set.owed().await, (0, 1_700));
    let rows = set
        .store
        .transfers(&set.payable(), None, 100)
        .await
        .unwrap();
    let recovered = |kind| kind == TransferKind::Recovered;
    let recovered = rows.iter().filter(|row| recovered(row.kind));
    assert_eq!(recovered.count(), 2);
}

/// What was put aside for points and comes back pays first what is owed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_comes_back_pays_first_what_is_owed() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(800)).await;
    set.over_lightning(&sale, 800 * SAT).await;
    let order = |name: &str, sats, direction| MoveRewardBudget {
        key: key(name),
        merchant: set.merchant.id,
        amount_msat: sats * SAT,
        direction,
    };
    let (rewards, issuer) = (set.engine.rewards(), set.engine.issuer());
    let aside = order("aside", 800, BudgetMove::In);
    rewards.move_budget(&issuer, aside).await.unwrap();
    set.to_own_wallet("own", 1, 50_000).await;
    assert_eq!(set.owed().await, (500, 0));
    for (name, sats, then) in [("part", 300, (200, 0)), ("rest", 500, (0, 300))] {
        let back = order(name, sats, BudgetMove::Out);
        rewards.move_budget(&issuer, back).await.unwrap();
        assert_eq!(set.owed().await, then, "{name}");
    }
}

/// Points are the merchant's to give of what comes in, and its debt has what they leave: over the
/// rail of a card as by a charge, and when what was set aside is captured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_that_owes_is_paid_by_cards_and_gives_its_points() {
    for (is_held, owed, sats, left) in [(false, 500, 200, 304), (true, 1_000, 1_000, 20)] {
        let set = set().await;
        set.to_own_wallet("own", 1, owed * 100).await;
        let program = shop::program(&set.engine, set.merchant.id).await;
        let mut card = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
        shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(10_000)).await;
        let bill = match is_held {
            true => held(&set, "held").await,
            false => shop::sale(&set.engine, &set.merchant, "sale", sat(sats)).await,
        };
        let command = PayWithCard {
            key: key("pay"),
            tap: card.chip.tap(),
            bolt11: bill.bolt11.clone(),
            pin: None,
        };
        let (cards, till) = (set.engine.cards(), &set.merchant.till);
        cards.pay(till, command).await.unwrap();
        if is_held {
            assert_eq!(set.owed().await, (owed, 0));
            let command = CaptureInvoice {
                key: key("capture"),
                invoice: bill.id,
            };
            set.engine.invoices().capture(till, command).await.unwrap();
        }
        assert_eq!(set.get(&bill).await.state, InvoiceState::Settled);
        assert_eq!(set.owed().await, (left, 0), "{is_held}");
        let points = Account::points_balance(card.id, program);
        let points_has = set.store.balance(&points).await.unwrap();
        let has = points_has.available(points.kind().side());
        assert_eq!(has, i128::from(sats / 50), "{is_held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fee_that_was_paid_comes_back_when_the_chain_takes_the_sale_away() {
    let set = set().await;
    let command = set.command("own", sat(50_000), on_chain("own", Custody::Merchant));
    let own = set.make(command).await.unwrap();
    set.chain(&own, 1, 50_000, block(1)).await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(2_000)).await;
    set.over_lightning(&sale, 2_000 * SAT).await;
    assert_eq!(set.owed().await, (0, 1_500));
    set.chain(&own, 1, 50_000, GONE).await;
    assert_eq!(set.owed().await, (0, 2_000));
    // And is owed again when it comes back, once.
    for _ in 0..2 {
        set.chain(&own, 1, 50_000, block(1)).await;
    }
    assert_eq!(set.owed().await, (500, 2_000));
    set.expect(
        "the fee is owed, the sale is the merchant's",
        &[
            (Account::node_channels(), 2_000 * SAT),
            (set.payable(), 2_000 * SAT),
            (Account::merchant_receivable(set.merchant.id), 500 * SAT),
            (Account::fee_income(), 500 * SAT),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merchant_s_terms_say_what_the_operator_keeps_of_its_own_wallet() {
    let mut set = set().await;
    let settlement = set.engine.settlement();
    let issuer = set.engine.issuer();
    let command = |name: &str, bps| CreateMerchant {
        key: key(name),
        name: name.to_owned(),
        terms: PayoutTerms {
            own_wallet_bps: Some(bps),
            ..PayoutTerms::default()
        },
        category: None,
    };
    let refused = settlement.create(&issuer, command("greedy", 10_001)).await;
    assert_eq!(refused.unwrap_err().code(), "command.out_of_bounds");
    let free = settlement
        .create(&issuer, command("free", 0))
        .await
        .unwrap();
    let till = set.merchant.till.clone();
    set.merchant = Merchant { id: free.id, till };
    set.to_own_wallet("own", 1, 50_000).await;
    set.expect("nothing is owed", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_not_captured_when_a_claim_could_come_too_late() {
    let set = set().await;
    set.node.set_height(Some(100));
    let invoice = held(&set, "deadline").await;
    let waits = set.offer(&invoice, invoice.amount_msat, Some(40)).await;
    assert_eq!(waits.payments[0].claim_deadline_height, Some(140));
    set.node.set_height(Some(138));
    let invoices = set.engine.invoices();
    let command = CaptureInvoice {
        key: key("capture"),
        invoice: invoice.id,
    };
    let refused = invoices.capture(&set.merchant.till, command.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "invoice.capture_too_late");
    assert_eq!(set.node.claimed.lock().unwrap().len(), 0);
    let waits = set.get(&invoice).await;
    assert_eq!(waits.payments[0].state, InvoicePaymentState::Authorized);
    // One block earlier there is time.
    set.node.set_height(Some(137));
    let taken = invoices.capture(&set.merchant.till, command).await.unwrap();
    assert_eq!(taken.payments[0].state, InvoicePaymentState::Pending);
    assert_eq!(set.node.claimed.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_s_own_rules_send_a_surplus_only_to_a_card_that_takes_it() {
    let set = set().await;
    let issuer = set.engine.issuer();
    let command = CreateCardProgram {
        key: key("program"),
        name: "Dollars".to_owned(),
        terms: CardProgramTerms {
            unit: Asset::Fiat(Currency::from_code("JMD").unwrap()),
            ..CardProgramTerms::default()
        },
    };
    let programs = set.engine.cards().programs();
    let program = programs.create(&issuer, command).await;
    let command = IssueCard {
        key: key("issue"),
        uid: shop::UID.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: Some(program.unwrap().id),
    };
    let dollars = set.engine.cards().issue(&issuer, command).await.unwrap();
    let with = |name: &str, card| {
        let options = InvoiceOptions {
            rules: Some(PaymentRules {
                surplus: Some(SurplusTo::Card { card }),
                ..PaymentRules::default()
            }),
            ..InvoiceOptions::default()
        };
        set.command(name, sat(1_000), options)
    };
    let nobody = CardId::from_parts(1, [7; 10]);
    for (name, card, code) in [
        ("dollars", dollars.id, "card.unit_mismatch"),
        ("nobody", nobody, "card.not_found"),
    ] {
        assert_eq!(set.make(with(name, card)).await.unwrap_err(), code);
    }
}

/// The rules of a merchant whose customers' surplus goes on a card.
fn onto(card: CardId) -> PaymentRules {
    PaymentRules {
        surplus: Some(SurplusTo::Card { card }),
        ..PaymentRules::NONE
    }
}

/// What is exact is taken whatever became of the card that a surplus is to go on: over Lightning and
/// in the books. Only a surplus goes back meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_is_out_of_use_keeps_out_a_surplus_alone() {
    let set = set().await;
    let card = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
    let mut payer = shop::card(&set.engine, "04a39493cc8681", CardLimits::default()).await;
    shop::top_up(&set.engine, &set.customer, &payer, "top-up", sat(5_000)).await;
    let sale = async |name: &str| set.sale(name, sat(1_000), onto(card.id)).await;
    let (network, book, over) = (sale("1").await, sale("2").await, sale("3").await);
    let cards = set.engine.cards();
    let command = |name: &str| FreezeCard {
        key: key(name),
        card: card.id,
    };
    cards.freeze(&card.holder, command("stop")).await.unwrap();
    let paid = set.over_lightning(&network, 1_000 * SAT).await;
    assert_eq!(paid.state, InvoiceState::Settled);
    let pays = PayWithCard {
        key: key("pay"),
        tap: payer.chip.tap(),
        bolt11: book.bolt11.clone(),
        pin: None,
    };
    let paid = cards.pay(&set.merchant.till, pays).await.unwrap();
    assert_eq!(paid.state, CardPaymentState::Succeeded);
    let back = set.offer(&over, 1_200 * SAT, None).await;
    assert_eq!((back.state, back.payments.len()), (InvoiceState::New, 0));
    cards.unfreeze(&card.holder, command("on")).await.unwrap();
    let paid = set.over_lightning(&over, 1_200 * SAT).await;
    assert_eq!(paid.state, InvoiceState::Settled);
    let on_card = set.available(Account::card_balance(card.id)).await;
    assert_eq!(on_card, 200 * SAT);
}

/// A surplus that could still go back does not fill a card beyond what it, or its program, may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surplus_does_not_come_on_a_card_above_what_may_be_on_it() {
    for is_programs in [false, true] {
        let set = set().await;
        let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
        let most = Some(50_000 * SAT);
        let terms = CardProgramTerms {
            max_balance_minor_units: most.filter(|_| is_programs),
            ..CardProgramTerms::default()
        };
        let command = CreateCardProgram {
            key: key("program"),
            name: "Bitcoin".to_owned(),
            terms,
        };
        let program = cards.programs().create(&issuer, command).await.unwrap();
        let limits = CardLimits {
            max_balance: most.filter(|_| !is_programs),
            ..CardLimits::default()
        };
        let card = card_of(&set, limits, program.id).await;
        let balance = Account::card_balance(card.id);
        shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(45_000)).await;
        let sale = set.sale("sale", sat(10_000), onto(card.id)).await;
        let back = set.offer(&sale, 15_001 * SAT, None).await;
        assert_eq!((back.state, back.payments.len()), (InvoiceState::New, 0));
        let paid = set.over_lightning(&sale, 15_000 * SAT).await;
        assert_eq!(paid.state, InvoiceState::Settled);
        assert_eq!(set.available(balance).await, 50_000 * SAT);
        // On chain nothing can go back.
        let sale = set.sale("chain", sat(10_000), onto(card.id)).await;
        set.chain(&sale, 1, 11_000, block(1)).await;
        assert_eq!(set.available(balance).await, 51_000 * SAT);
    }
}

/// A card of a program, in somebody's hand.
async fn card_of(set: &Set, limits: CardLimits, program: CardProgramId) -> HeldCard {
    let (cards, issuer) = (set.engine.cards(), set.engine.issuer());
    let command = IssueCard {
        key: key("issue"),
        uid: shop::UID.to_owned(),
        existing_chip: None,
        limits,
        program: Some(program),
    };
    let id = cards.issue(&issuer, command).await.unwrap().id;
    let keys = cards.programming_keys(&issuer, shop::UID).await.unwrap();
    let chip = VirtualCard::program(shop::UID, &keys).unwrap();
    let command = ActivateCard {
        key: key("activate"),
        card: id,
    };
    let activation = cards.activate(&issuer, command).await.unwrap();
    let holder = activation.holder.clone();
    HeldCard { id, holder, chip }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_pays_a_hold_invoice_in_the_books_and_its_capture_is_the_proof() {
    let set = set().await;
    let program = shop::program(&set.engine, set.merchant.id).await;
    let limits = CardLimits {
        per_day: Some(1_400 * SAT),
        ..CardLimits::default()
    };
    let mut card = shop::card(&set.engine, shop::UID, limits).await;
    shop::top_up(&set.engine, &set.customer, &card, "top-up", sat(10_000)).await;
    let (one, two) = (held(&set, "one").await, held(&set, "two").await);
    let cards = set.engine.cards();
    let till = &set.merchant.till;
    let mut pay = |name: &str, invoice: &Invoice| PayWithCard {
        key: key(name),
        tap: card.chip.tap(),
        bolt11: invoice.bolt11.clone(),
        pin: None,
    };
    let (first, again) = (pay("first", &one), pay("again", &one));
    let over = pay("over", &two);
    let second = pay("second", &two);
    let waits = cards.pay(till, first.clone()).await.unwrap();
    assert_eq!(
        (waits.state, waits.held_for, waits.points),
        (CardPaymentState::Sending, Some(one.id), 0)
    );
    assert!(waits.by_book.is_none(), "no proof before it is captured");
    assert_eq!(cards.pay(till, first).await.unwrap().id, waits.id);
    assert_eq!(
        cards.pay(till, again).await.unwrap_err().code(),
        "invoice.not_payable"
    );
    let events = ["created", "authorized"];
    assert_eq!(set.events(&one).await, events);
    // The day's limit counts what is set aside.
    let refused = cards.pay(till, over).await.unwrap_err();
    assert_eq!(refused.code(), "card.limit_exceeded");
    let cancel = CancelInvoice {
        key: key("cancel"),
        invoice: one.id,
    };
    let invoices = set.engine.invoices();
    invoices.cancel(till, cancel).await.unwrap();
    let back = cards
        .get_payment(&set.engine.issuer(), waits.id)
        .await
        .unwrap();
    assert_eq!(back.state, CardPaymentState::Failed);
    assert_eq!(set.events(&one).await.last().unwrap(), "cancelled");
    // It was given back to the limit as well.
    let waits = cards.pay(till, second).await.unwrap();
    let capture = CaptureInvoice {
        key: key("capture"),
        invoice: two.id,
    };
    let taken = invoices.capture(till, capture).await.unwrap();
    assert_eq!(taken.state, InvoiceState::Settled);
    let done = cards
        .get_payment(&set.engine.issuer(), waits.id)
        .await
        .unwrap();
    assert_eq!((done.state, done.points), (CardPaymentState::Succeeded, 20));
    let preimage = hex::decode(&done.by_book.as_ref().unwrap().preimage).unwrap();
    assert_eq!(
        hex::encode(Sha256::digest(preimage)),
        two.payment_hash.to_string()
    );
    set.expect(
        "one of two, with points",
        &[
            (Account::node_channels(), 10_000 * SAT),
            (Account::card_balance(card.id), 9_000 * SAT),
            (set.payable(), 980 * SAT),
            (Account::reward_fund(program), 20 * SAT),
            (Account::points_issued(program), 20),
            (Account::points_balance(card.id, program), 20),
        ],
    )
    .await;
    // A start asks the node about none of them.
    assert_eq!(set.node.sent.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_and_network_race_for_a_hold_invoice_and_one_of_them_has_it() {
    let set = set().await;
    let float = shop::sale(&set.engine, &set.merchant, "more", sat(50_000)).await;
    set.over_lightning(&float, 50_000 * SAT).await;
    let other = shop::merchant(&set.engine, "Other").await;
    let settlement = set.engine.settlement();
    let issuer = set.engine.issuer();
    let (mut by_book, mut by_network) = (0, 0);
    for round in 0..6 {
        let command = set.command(
            &format!("held-{round}"),
            sat(100),
            InvoiceOptions::default(),
        );
        let command = CreateInvoice {
            purpose: InvoicePurpose::Sale { merchant: other.id },
            options: InvoiceOptions {
                hold: true,
                ..InvoiceOptions::default()
            },
            ..command
        };
        let invoice = set.make(command).await.unwrap();
        let request = RequestPayout {
            key: key(&format!("payout-{round}")),
            merchant: set.merchant.id,
            bolt11: invoice.bolt11.clone(),
        };
        let (sent, paid) = if round % 2 == 0 {
            tokio::join!(
                set.customer.send(&invoice.bolt11),
                settlement.request_payout(&issuer, request)
            )
        } else {
            let (paid, sent) = tokio::join!(
                settlement.request_payout(&issuer, request),
                set.customer.send(&invoice.bolt11)
            );
            (sent, paid)
        };
        sent.unwrap();
        set.until(&invoice, InvoiceState::Processing).await;
        let capture = CaptureInvoice {
            key: key(&format!("capture-{round}")),
            invoice: invoice.id,
        };
        let invoices = set.engine.invoices();
        invoices.capture(&other.till, capture).await.unwrap();
        let settled = set.until(&invoice, InvoiceState::Settled).await;
        let live = settled.payments.iter().filter(|paid| paid.is_live());
        assert_eq!(live.count(), 1, "round {round}");
        match paid {
            Ok(payout) => {
                let payout = settlement.payout(&issuer, payout.id).await.unwrap();
                assert_eq!(payout.state, PayoutState::PaidOut);
                by_book += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), "invoice.not_payable");
                by_network += 1;
            }
        }
    }
    println!("by book {by_book}, over the network {by_network}");
    let owed = settlement.balance(&issuer, other.id).await.unwrap();
    assert_eq!(owed.owed_msat, 600 * SAT);
    assert_eq!(
        set.available(set.payable()).await,
        (50_000 - by_book * 100) * SAT
    );
}
