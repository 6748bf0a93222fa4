//! Every command and every answer is one record that reads back from JSON as it was written:
//! the seam between an engine and whatever talks to it.

mod support;

use std::fmt::Debug;
use std::sync::Arc;

use flashkit::access::Credential;
use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{
    ActivateCard, AddFamilyCard, AuthorizeCard, AutoTopUp, BearerUnit, CaptureCharge, CardCounter,
    CardLimits, CardPaymentOutcome, CardProgramTerms, CardReceiptOf, CardStatementQuery,
    ChargeAmount, ChargeCard, CreateCardImport, CreateCardProgram, CutOver, ExistingChip,
    FreezeCard, ImportIssuerKey, ImportedCard, IssueCard, IssueCards, IssueVirtualCard, LossBearer,
    MakeRecoveryCode, OfflineBook, OfflineKey, OfflineTerms, PayWithCard, RecoverHolder,
    RefundCharge, RegisterBearerCard, ReleaseCharge, RenewHolder, RenewTopUpAddress, ReplaceCard,
    ReportLost, ResolveCardPayment, RetireCard, RetireTo, RollBack, RotateIssuerKey, SetAutoTopUp,
    SetCardExpiry, SetCardLimits, SetCardNote, SetCardPin, SetOfflineTerms, StoppedCard,
    SyncCounters, TopUpCard, TopUpSource, TopUpWanted, UnlockCardCode, UnlockCardPin,
    UpdateCardProgram, WipeCard, WithdrawFromCard,
};
use flashkit::exchange::SetPositionCap;
use flashkit::ids::{CredentialId, MerchantId};
use flashkit::invoices::{
    CancelInvoice, CaptureInvoice, ConfirmationTier, CreateInvoice, GiveUpInvoice, InvoiceFilter,
    InvoiceLine, InvoiceOptions, InvoicePurpose, MarkInvoice, MarkedAs, OnChainFact, OnChainPlace,
    Outpoint, PaymentRules, SetInvoicePolicy, SurplusTo,
};
use flashkit::ledger::JournalProblem;
use flashkit::money::{Asset, Currency};
use flashkit::ports::{Clock, SystemClock};
use flashkit::refunds::{
    AnswerRefund, CancelRefund, CreateRefund, RefundAmount, RefundFeeBearer, RefundOutcome,
    RefundTo, ResolveRefund,
};
use flashkit::reports::{ExportFormat, StatementPeriod};
use flashkit::rewards::{BudgetMove, CreateProgram, MoveRewardBudget, RedeemPoints};
use flashkit::settlement::{
    CreateMerchant, PairTill, PayoutOutcome, PayoutTerms, RequestPayout, ResolvePayout, RevokeTill,
};
use flashkit::store::MemoryStore;
use flashkit::treasury::{
    AssignSuspense, BookCapital, CapitalAccount, CapitalDirection, SuspenseItem, SuspensePart,
    SuspenseTarget,
};
use flashkit::{Answer, Engine};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::key;
use support::shop::{self, jmd, sat};

/// Reads back what was written, and writes the same again.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(record: &T) -> Value {
    let text = serde_json::to_string(record).unwrap();
    let read: T = serde_json::from_str(&text).unwrap();
    assert_eq!(&read, record);
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    serde_json::from_str(&text).unwrap()
}

fn check_answer<T>(answer: &Answer<T>) -> Value
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value = check(answer);
    assert!(value["as_of_ms"].is_i64() && !value["value"].is_null());
    value
}

/// What a till takes offline.
async fn offline_records(
    engine: &Engine,
    till: CredentialId,
    credential: &Credential,
    merchant: MerchantId,
) {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let terms = OfflineTerms {
        per_tap_msat: 1_000_000,
        per_day_msat: 1_000_000,
        window_ms: 1_000_000,
        loss: LossBearer::Operator,
        stopped_card: StoppedCard::Pays,
    };
    let command = SetOfflineTerms {
        key: key("offline-terms"),
        merchant,
        till: None,
        terms: Some(terms),
    };
    check(&command);
    check_answer(&cards.set_offline_terms(&issuer, command).await.unwrap());
    let secret = OfflineKey::new([1; 32]).unwrap();
    let command = secret.enroll(till, key("enroll")).unwrap();
    check(&command);
    check_answer(&cards.enroll_offline_key(credential, command).await.unwrap());
    let enrolment = cards.offline_enrolment(&issuer, till).await.unwrap();
    check_answer(&enrolment);
    let mut book = OfflineBook::new(&enrolment).unwrap();
    let tap = "lnurlw://h?p=4E2E289D945A66BB13377A728884E867&c=E19CCB1FED8892CE";
    let now_ms = SystemClock.now_ms();
    let accepted = check(&book.accept(tap, 5_000, "table 4", now_ms).unwrap());
    assert_eq!(accepted["state"], json!("accepted_offline_not_paid"));
    check(&book);
    let envelope = book.envelope(&secret).unwrap().unwrap();
    check(&envelope);
    let outcomes = cards.replay_offline(credential, envelope).await.unwrap();
    let outcome = check_answer(&outcomes);
    assert_eq!(outcome["value"][0]["state"], json!("unpaid"));
    check_answer(
        &cards
            .list_offline(&issuer, merchant, None, 10)
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_cards_life() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let cards = engine.cards();
    let merchant = shop::merchant(engine, "Cookshop").await;
    let held = shop::card(engine, shop::UID, CardLimits::default()).await;
    let (card, holder) = (held.id, held.holder);
    let blank = async |uid: &str| {
        let command = IssueCard {
            key: key(uid),
            uid: uid.to_owned(),
            existing_chip: None,
            limits: CardLimits::default(),
            program: None,
        };
        let id = cards.issue(&issuer, command).await.unwrap().id;
        let keys = cards.programming_keys(&issuer, uid).await.unwrap();
        let mut chip = flashkit::testkit::virtual_card::VirtualCard::program(uid, &keys).unwrap();
        (id, chip.tap())
    };
    let command = SetCardExpiry {
        key: key("expiry"),
        card,
        expires_at_ms: None,
    };
    check(&command);
    // What is not there is not written: cards of before read and write as they did.
    let answer = cards.set_expiry(&issuer, command).await.unwrap();
    let value = check_answer(&answer);
    for field in [
        "kind",
        "expires_at_ms",
        "replaced_by",
        "replacements",
        "family_of",
    ] {
        assert!(value["value"].get(field).is_none(), "{field}");
    }
    let command = MakeRecoveryCode {
        key: key("code"),
        card,
    };
    check(&command);
    let code = cards.make_recovery_code(&holder, command).await.unwrap();
    check_answer(&code);
    let command = RecoverHolder {
        key: key("recover"),
        code: code.code.clone(),
    };
    check(&command);
    let recovered = cards.recover(command).await.unwrap();
    check_answer(&recovered);
    let holder = recovered.holder.clone();
    let command = SetCardNote {
        key: key("note"),
        card,
        note: Some("mine".to_owned()),
    };
    check(&command);
    check_answer(&cards.set_note(&holder, command).await.unwrap());
    check_answer(&cards.note(&holder, card).await.unwrap());
    let command = AddFamilyCard {
        key: key("family"),
        main: card,
        tap: blank("04a39493cc0001").await.1,
        limits: CardLimits::default(),
    };
    check(&command);
    check_answer(&cards.add_to_family(&holder, command).await.unwrap());
    check_answer(&cards.family(&holder, card).await.unwrap());
    let command = SetAutoTopUp {
        key: key("auto"),
        card,
        rule: Some(AutoTopUp {
            unit: Asset::Btc,
            below: 1,
            to: 2,
            times_per_day: 1,
            from: TopUpSource::Outside,
        }),
        source: Some(holder.clone()),
    };
    check(&command);
    check_answer(&cards.set_auto_top_up(&holder, command).await.unwrap());
    check(&TopUpWanted {
        card,
        unit: Asset::Btc,
        amount: 2,
        balance: 0,
    });
    let command = ReportLost {
        key: key("lost"),
        card,
    };
    check(&command);
    check_answer(&cards.report_lost(&holder, command).await.unwrap());
    let (new, tap) = blank("04a39493cc0002").await;
    let command = ReplaceCard {
        key: key("replace"),
        card,
        tap,
    };
    check(&command);
    let replaced = cards.replace(&holder, command).await.unwrap();
    check_answer(&replaced);
    let command = WipeCard {
        key: key("wipe"),
        card,
    };
    check(&command);
    let wiped = cards.wipe(&issuer, command).await.unwrap();
    assert_eq!(check_answer(&wiped)["value"]["state"], json!("wiped"));
    let to = RetireTo::Merchant {
        merchant: merchant.id,
    };
    let command = RetireCard {
        key: key("retire"),
        card: new,
        to,
    };
    check(&command);
    // Its family spends its balance.
    let refused = cards.retire(&replaced.holder, command).await.unwrap_err();
    assert_eq!(refused.code(), "card.has_family");
    let command = IssueVirtualCard {
        key: key("virtual"),
        limits: CardLimits::default(),
        expires_at_ms: None,
        program: None,
    };
    check(&command);
    let virtual_card = cards.issue_virtual(&issuer, command).await.unwrap();
    check_answer(&virtual_card);
    let command = ActivateCard {
        key: key("activate-virtual"),
        card: virtual_card.id,
    };
    let by = cards
        .activate(&issuer, command)
        .await
        .unwrap()
        .holder
        .clone();
    check_answer(&cards.virtual_details(&by, virtual_card.id).await.unwrap());
    let command = UnlockCardCode {
        key: key("unlock-code"),
        card: virtual_card.id,
    };
    check(&command);
    check_answer(&cards.unlock_code(&by, command).await.unwrap());
    let command = RegisterBearerCard {
        key: key("bearer"),
        public_key: format!("02{}", "5a".repeat(32)),
        unit: BearerUnit::Sat,
    };
    check(&command);
    let bearer = cards.register_bearer(&issuer, command).await.unwrap();
    assert_eq!(
        check_answer(&bearer)["value"]["kind"]["kind"],
        json!("bearer")
    );
    check_answer(&cards.list_beside(&issuer, true, None, 10).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_and_every_answer() {
    let shop = shop::simulated(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let (settlement, cards) = (engine.settlement(), engine.cards());

    let command = CreateMerchant {
        key: key("merchant"),
        name: "Cookshop".to_owned(),
        terms: PayoutTerms::default(),
        category: None,
    };
    check(&command);
    let merchant = settlement.create(&issuer, command).await.unwrap();
    check_answer(&merchant);
    check_answer(&settlement.get(&issuer, merchant.id).await.unwrap());

    let command = PairTill {
        key: key("till"),
        merchant: merchant.id,
        label: "1".to_owned(),
    };
    check(&command);
    let till = settlement.pair_till(&issuer, command).await.unwrap();
    check_answer(&till);
    let credential = till.credential.clone();

    let command = CreateProgram {
        key: key("program"),
        merchant: merchant.id,
        name: "Points".to_owned(),
        earn_bps: 100,
        point_value_msat: 1_000,
    };
    check(&command);
    let program = engine.rewards().create(&issuer, command).await.unwrap();
    check_answer(&program);

    let command = BookCapital {
        key: key("capital"),
        account: CapitalAccount::Channels,
        direction: CapitalDirection::In,
        amount_msat: 1,
        reason: "a start".to_owned(),
    };
    check(&command);
    check_answer(
        &engine
            .treasury()
            .book_capital(&issuer, command)
            .await
            .unwrap(),
    );

    let command = CreateCardProgram {
        key: key("card-program"),
        name: "Students".to_owned(),
        terms: CardProgramTerms {
            categories: vec!["5812".parse().unwrap()],
            reward_program: Some(program.id),
            ..CardProgramTerms::default()
        },
    };
    let value = check(&command);
    assert_eq!(value["terms"]["unit"], json!("BTC"));
    assert_eq!(
        value["terms"].get("breakage"),
        None,
        "an old request has the same form"
    );
    check(&flashkit::cards::BreakageRule::After { wait_ms: 1 });
    let programs = cards.programs();
    let card_program = programs.create(&issuer, command).await.unwrap();
    check_answer(&card_program);
    let command = UpdateCardProgram {
        key: key("card-program"),
        program: card_program.id,
        name: "Pupils".to_owned(),
        terms: serde_json::from_value(json!({ "merchants": [merchant.id] })).unwrap(),
    };
    check(&command);
    check_answer(&programs.update(&issuer, command).await.unwrap());
    check_answer(&programs.get(&issuer, card_program.id).await.unwrap());
    check_answer(&programs.list(&issuer, None, 10).await.unwrap());

    let command = RotateIssuerKey { key: key("rotate") };
    check(&command);
    check_answer(&cards.rotate_issuer_key(&issuer, command).await.unwrap());
    check_answer(&cards.issuer_keys(&issuer).await.unwrap());
    let value = check(&ImportIssuerKey {
        key: key("issuer-key"),
        issuer_key: flashkit::cards::boltcard::IssuerKey::new([0xab; 16]),
    });
    assert_eq!(value["issuer_key"], json!("ab".repeat(16)));
    let command = CreateCardImport {
        key: key("import"),
        name: "old server".to_owned(),
        issuer_key: cards.issuer_keys(&issuer).await.unwrap()[0].id,
        limits: CardLimits::default(),
        program: None,
    };
    check(&command);
    let imports = cards.imports();
    let import = imports.create(&issuer, command).await.unwrap();
    check_answer(&import);
    check_answer(&imports.get(&issuer, import.id).await.unwrap());
    let rows = [
        ("11".repeat(16), None, 1),
        ("22".repeat(16), Some("04000000000009".to_owned()), -1),
    ];
    let rows = rows.map(|(id, uid, balance_msat)| ImportedCard {
        id: Some(id),
        uid,
        version: 0,
        counter: 1,
        pull_payment_id: None,
        balance_msat,
    });
    check_answer(&imports.check(&issuer, import.id, &rows).await.unwrap());
    let command = CutOver {
        key: key("cut-over"),
        import: import.id,
        old_issuer_is_frozen: true,
        cards: rows.to_vec(),
    };
    check(&command);
    let report = imports.cut_over(&issuer, command).await.unwrap();
    assert_eq!(
        check_answer(&report)["value"]["refused"][0]["refusal"],
        json!({ "reason": "id_mismatch" })
    );
    let command = SyncCounters {
        key: key("sync"),
        import: import.id,
        counters: vec![CardCounter {
            id: "11".repeat(16),
            version: 0,
            counter: 2,
        }],
    };
    check(&command);
    check_answer(&imports.sync_counters(&issuer, command).await.unwrap());
    check_answer(&imports.export(&issuer, import.id, None, 10).await.unwrap());
    let command = RollBack {
        key: key("roll-back"),
        import: import.id,
        cards: None,
        after: None,
        limit: 10,
    };
    check(&command);
    check_answer(&imports.roll_back(&issuer, command).await.unwrap());
    check_answer(&imports.get(&issuer, import.id).await.unwrap());

    let command = IssueCards {
        key: key("batch"),
        uids: vec!["04000000000001".to_owned()],
        limits: CardLimits::default(),
        program: Some(card_program.id),
    };
    check(&command);
    check_answer(&cards.issue_batch(&issuer, command).await.unwrap());

    let existing_chip = ExistingChip {
        pull_payment_id: Some("fUDXsnySxvb5LYZ1bSLiWzLjVuT".to_owned()),
        version: 0,
        counter: 9,
        issuer_key: None,
    };
    let command = IssueCard {
        key: key("card"),
        uid: shop::UID.to_owned(),
        existing_chip: Some(existing_chip),
        limits: CardLimits {
            per_day: Some(1_000_000_000),
            ..CardLimits::default()
        },
        program: Some(card_program.id),
    };
    check(&command);
    // What is not there is not written: the digests of commands of before are the same.
    let without = IssueCard {
        program: None,
        ..command.clone()
    };
    assert!(check(&without).get("program").is_none());
    let card = cards.issue(&issuer, command).await.unwrap();
    check_answer(&card);
    let keys = cards.programming_keys(&issuer, shop::UID).await.unwrap();
    check(&keys);
    let command = ActivateCard {
        key: key("activate"),
        card: card.id,
    };
    check(&command);
    let activation = cards.activate(&issuer, command).await.unwrap();
    check_answer(&activation);
    let holder = activation.holder.clone();

    let command = TopUpCard {
        key: key("top-up"),
        card: card.id,
        price: sat(50_000),
    };
    check(&command);
    let invoice = cards.top_up(&holder, command).await.unwrap();
    check_answer(&invoice);
    shop.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(engine, &invoice).await;

    let command = CreateInvoice {
        key: key("sale"),
        purpose: InvoicePurpose::Sale {
            merchant: merchant.id,
        },
        price: Some(jmd(150_000)),
        description: "lunch".to_owned(),
        expiry_seconds: 600,
        options: InvoiceOptions::default(),
    };
    let value = check(&command);
    assert_eq!(
        value["price"],
        json!({ "kind": "fiat", "currency": "JMD", "minor_units": 150_000 })
    );
    let invoice = engine
        .invoices()
        .create(&credential, command)
        .await
        .unwrap();
    let value = check_answer(&invoice);
    assert_eq!(value["value"]["quote"]["rate"], json!("15000000.00"));
    check_answer(
        &engine
            .invoices()
            .get(&credential, invoice.id)
            .await
            .unwrap(),
    );
    check_answer(
        &engine
            .invoices()
            .list(&credential, invoice.purpose, None, 10)
            .await
            .unwrap(),
    );

    let mut chip = flashkit::testkit::virtual_card::VirtualCard::program(shop::UID, &keys).unwrap();
    chip.set_counter(9);
    let tap = chip.tap();
    check_answer(&cards.peek(&tap).await.unwrap());
    let command = ChargeCard {
        key: key("charge"),
        tap,
        price: sat(10_000),
        reference: "4".to_owned(),
        pin: None,
    };
    // What is not there is not written: the digests of commands of before are the same.
    assert!(check(&command).get("pin").is_none());
    let charged = cards.charge(&credential, command).await.unwrap();
    check_answer(&charged);
    let command = RefundCharge {
        key: key("refund"),
        charge: charged.id,
        amount: ChargeAmount::Bitcoin { amount_msat: 1_000 },
    };
    check(&command);
    let old = r#"{"key":"refund","charge":"CHARGE","amount_msat":1000}"#;
    let old = old.replace("CHARGE", &charged.id.to_string());
    assert_eq!(serde_json::to_string(&command).unwrap(), old);
    let jmd = Currency::from_code("JMD").unwrap();
    check(&CaptureCharge {
        key: key("capture"),
        charge: charged.id,
        amount: ChargeAmount::Fiat {
            currency: jmd,
            minor_units: 1_000,
        },
    });
    check_answer(&cards.refund(&credential, command).await.unwrap());
    let (charge, number) = (charged.id, 1);
    for of in [
        CardReceiptOf::Charge { charge },
        CardReceiptOf::Refund { charge, number },
    ] {
        check(&of);
        check_answer(&cards.receipt(&credential, of).await.unwrap());
    }
    let command = SetPositionCap {
        key: key("cap"),
        currency: jmd,
        max_open: 1_000_000,
    };
    check(&command);
    let exchange = engine.exchange();
    check_answer(&exchange.set_position_cap(&issuer, command).await.unwrap());
    check_answer(&exchange.positions(&issuer, &[]).await.unwrap());
    let command = SetCardPin {
        key: key("pin"),
        card: card.id,
        pin: "1234".parse().unwrap(),
    };
    check(&command);
    check_answer(&cards.set_pin(&holder, command).await.unwrap());
    check_answer(&cards.pin_status(&holder, card.id).await.unwrap());
    let command = UnlockCardPin {
        key: key("unlock"),
        card: card.id,
    };
    check(&command);
    check_answer(&cards.unlock_pin(&holder, command).await.unwrap());
    for name in ["tab-1", "tab-2"] {
        let command = AuthorizeCard {
            key: key(name),
            tap: chip.tap(),
            price: sat(1_000),
            reference: name.to_owned(),
            pin: Some("1234".parse().unwrap()),
        };
        check(&command);
        let tab = cards.authorize(&credential, command).await.unwrap();
        assert_eq!(check_answer(&tab)["value"]["state"], json!("authorized"));
        let capture = CaptureCharge {
            key: key(name),
            charge: tab.id,
            amount: ChargeAmount::Bitcoin { amount_msat: 1_000 },
        };
        let release = ReleaseCharge {
            key: key(name),
            charge: tab.id,
        };
        check(&capture);
        check(&release);
        match name {
            "tab-1" => check_answer(&cards.capture(&credential, capture).await.unwrap()),
            _ => check_answer(&cards.release(&credential, release).await.unwrap()),
        };
        check_answer(&cards.get_charge(&holder, tab.id).await.unwrap());
    }
    let seller = shop::Merchant {
        id: merchant.id,
        till: credential.clone(),
    };
    for bolt11 in [
        shop::sale(engine, &seller, "till", sat(100)).await.bolt11,
        shop.customer.invoice(100_000, "elsewhere").await.unwrap(),
    ] {
        let command = PayWithCard {
            key: key(&bolt11[bolt11.len() - 20..]),
            tap: chip.tap(),
            bolt11,
            pin: Some("1234".parse().unwrap()),
        };
        check(&command);
        let paid = cards.pay(&credential, command).await.unwrap();
        check_answer(&paid);
        check_answer(&cards.get_payment(&holder, paid.id).await.unwrap());
    }
    let listed = cards.list_payments(&holder, card.id, None, 10).await;
    let listed = listed.unwrap();
    check_answer(&listed);
    check_answer(&cards.quote_withdrawal(&holder, card.id).await.unwrap());
    let command = WithdrawFromCard {
        key: key("withdraw"),
        card: card.id,
        bolt11: shop.customer.invoice(10_000, "own wallet").await.unwrap(),
        amount_msat: Some(10_000),
    };
    check(&command);
    // The card's program says where it can pay; the answer is that of a payment.
    let refused = cards.withdraw(&holder, command).await.unwrap_err();
    assert_eq!(refused.code(), "card.payee_not_known");
    check(&ResolveCardPayment {
        key: key("resolve"),
        payment: listed.value[0].id,
        outcome: CardPaymentOutcome::Failed,
        reason: "asked".to_owned(),
        despite_record: false,
    });
    check_answer(&cards.top_up_address(&holder, card.id).await.unwrap());
    let command = RenewTopUpAddress {
        key: key("renew"),
        card: card.id,
    };
    check(&command);
    check_answer(&cards.renew_top_up_address(&holder, command).await.unwrap());
    let request = LnurlRequest {
        url: chip.tap(),
        till: Some(credential.clone()),
        source: None,
    };
    check(&request);
    check(&cards.answer(&request).await);
    let listed = cards.list_charges(&credential, merchant.id, None, 10).await;
    check_answer(&listed.unwrap());
    check_answer(&cards.get(&holder, card.id).await.unwrap());
    check_answer(&cards.history(&holder, card.id, None, 10).await.unwrap());

    let points = engine
        .rewards()
        .points(&holder, card.id, program.id)
        .await
        .unwrap();
    check_answer(&points);
    let command = RedeemPoints {
        key: key("redeem"),
        card: card.id,
        program: program.id,
        points: points.points,
    };
    check(&command);
    check_answer(&engine.rewards().redeem(&holder, command).await.unwrap());
    let command = MoveRewardBudget {
        key: key("budget"),
        merchant: merchant.id,
        amount_msat: 1,
        direction: BudgetMove::In,
    };
    check(&command);
    let rewards = engine.rewards();
    check_answer(&rewards.move_budget(&issuer, command).await.unwrap());
    check_answer(&rewards.budget(&credential, merchant.id).await.unwrap());

    let command = FreezeCard {
        key: key("freeze"),
        card: card.id,
    };
    check(&command);
    check_answer(&cards.freeze(&holder, command.clone()).await.unwrap());
    check_answer(&cards.unfreeze(&holder, command).await.unwrap());
    let command = SetCardLimits {
        key: key("limits"),
        card: card.id,
        limits: CardLimits {
            taps_per_hour: Some(9),
            ..CardLimits::default()
        },
    };
    check(&command);
    check_answer(&cards.set_limits(&holder, command).await.unwrap());
    let command = RenewHolder {
        key: key("renew"),
        card: card.id,
    };
    check(&command);
    check_answer(&cards.renew_holder(&issuer, command).await.unwrap());
    invoice_commands(&shop, &merchant, invoice.id).await;
    refund_records(&shop, &seller).await;
    check(&GiveUpInvoice {
        key: key("give-up"),
        invoice: invoice.id,
        reason: "none came".to_owned(),
    });
    check(&AssignSuspense {
        key: key("assign"),
        item: flashkit::ids::TransferId::from_parts(1, [1; 10]),
        to: SuspenseTarget::Merchant {
            merchant: merchant.id,
        },
        reason: "a letter".to_owned(),
    });
    check_answer(&engine.treasury().suspense(&issuer, None, 10).await.unwrap());
    check_answer(&engine.rewards().get(&issuer, program.id).await.unwrap());

    check_answer(&settlement.balance(&credential, merchant.id).await.unwrap());
    let quote = settlement
        .quote_payout(&credential, merchant.id)
        .await
        .unwrap();
    check_answer(&quote);
    let bolt11 = shop
        .customer
        .invoice(quote.amount_msat, "takings")
        .await
        .unwrap();
    let command = RequestPayout {
        key: key("payout"),
        merchant: merchant.id,
        bolt11,
    };
    check(&command);
    let payout = settlement.request_payout(&issuer, command).await.unwrap();
    check_answer(&payout);
    check_answer(&settlement.payout(&issuer, payout.id).await.unwrap());
    for outcome in [
        PayoutOutcome::Failed,
        PayoutOutcome::PaidOut {
            route_fee_msat: Some(1),
        },
    ] {
        check(&ResolvePayout {
            key: key("resolve"),
            payout: payout.id,
            outcome,
            reason: "asked".to_owned(),
            despite_record: false,
        });
    }
    check_answer(
        &settlement
            .payouts(&credential, merchant.id, None, 10)
            .await
            .unwrap(),
    );
    check_answer(
        &settlement
            .history(&credential, merchant.id, None, 10)
            .await
            .unwrap(),
    );

    let query = CardStatementQuery {
        card: activation.card.id,
        period: StatementPeriod::Month {
            year: 2026,
            month: 11,
        },
    };
    check(&query);
    for period in [
        StatementPeriod::Between {
            from_ms: 0,
            to_ms: i64::MAX,
        },
        StatementPeriod::Days {
            first: "2020-01-01".to_owned(),
            last: "2030-12-31".to_owned(),
        },
    ] {
        let query = CardStatementQuery { period, ..query };
        check(&query);
        check_answer(&cards.statement(&issuer, &query).await.unwrap());
        let rows = cards.statement_rows(&issuer, &query, None, 10).await;
        check_answer(&rows.unwrap());
        for format in [ExportFormat::Csv, ExportFormat::JsonLines] {
            check(&format);
            let page = cards.export_statement(&issuer, &query, format, None, 1);
            check_answer(&page.await.unwrap());
        }
    }
    offline_records(engine, till.till.id, &credential, merchant.id).await;

    let command = flashkit::settlement::SetMerchantCategory {
        key: key("category"),
        merchant: merchant.id,
        category: Some("5814".parse().unwrap()),
    };
    check(&command);
    check_answer(&settlement.set_category(&issuer, command).await.unwrap());

    let command = RevokeTill {
        key: key("revoke"),
        till: till.till.id,
    };
    check(&command);
    check_answer(&settlement.revoke_till(&issuer, command).await.unwrap());

    check_answer(&engine.reports().trial_balance(&issuer).await.unwrap());
    let account = flashkit::ledger::Account::fee_income();
    check_answer(&engine.reports().account(&issuer, account).await.unwrap());
    let reports = engine.reports();
    check_answer(&reports.balance_at(&issuer, account, 0).await.unwrap());
    let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
    check_answer(&verdict);
    let key = flashkit::reports::HeadKey::new(&[1; 32]).unwrap();
    check(&flashkit::reports::SignedHeads::sign(
        1,
        verdict.heads.clone(),
        &key,
    ));
    for problem in [
        JournalProblem::TotalsWrong {
            account,
            stored: flashkit::ledger::Balance {
                debits_posted: i128::MAX,
                ..Default::default()
            },
            computed: Default::default(),
        },
        JournalProblem::HoldWrong {
            hold: "tr_00000000000177078000000000000059".parse().unwrap(),
            stored: None,
            computed: 3,
        },
        JournalProblem::ChainMissing {
            writer: "1".to_owned(),
        },
    ] {
        let mut found = verdict.clone();
        found.value.problems = vec![problem];
        check_answer(&found);
    }
    check(&SuspenseItem {
        id: flashkit::ids::TransferId::from_parts(1, [1; 10]),
        payment_hash: Some(flashkit::lightning::PaymentHash([1; 32])),
        outpoint: None,
        amount_msat: -1,
        since_ms: 1,
        assigned_to: Some(SuspenseTarget::Operator),
        assignment: Some(flashkit::ids::TransferId::from_parts(1, [2; 10])),
        withdrawn: false,
        returned_as: None,
        reason: Some("a letter".to_owned()),
        refunds: vec![SuspensePart {
            refund: flashkit::ids::RefundId::from_parts(1, [1; 10]),
            amount_msat: 1,
            transfer: flashkit::ids::TransferId::from_parts(1, [3; 10]),
        }],
    });
    check(&flashkit::reports::Untied {
        account: flashkit::ledger::Account::node_channels(),
        booked_msat: 5,
        incoming_msat: 1,
        outgoing_msat: 2,
        known_msat: 0,
        code: "lightning.no_node".to_owned(),
        since_ms: Some(3),
    });
    check_answer(&reports.audit(&issuer).await.unwrap());
    for event in engine
        .events()
        .next(&issuer, "reader", 1_000)
        .await
        .unwrap()
    {
        check(&event);
    }
    engine.stop().await.unwrap();
}

/// Refunds of a sale that was paid.
async fn refund_records(shop: &shop::Simulated, seller: &shop::Merchant) {
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let sale = shop::sale(engine, seller, "refunded", jmd(15_000)).await;
    shop.customer.pay(&sale.bolt11).await.unwrap();
    shop::settled(engine, &sale).await;
    let refunds = engine.refunds();
    let now = RefundAmount::RateNow {
        minor_units: Some(1_500),
    };
    let quote = refunds.quote(&issuer, sale.id, now, RefundFeeBearer::Operator);
    check_answer(&quote.await.unwrap());
    let create = |name: &str, to, amount| CreateRefund {
        key: key(name),
        invoice: sale.id,
        to,
        amount,
        fee_bearer: RefundFeeBearer::Operator,
        reason: "cold".to_owned(),
    };
    let address = RefundTo::LightningAddress {
        address: "ann@x.com".to_owned(),
    };
    let command = create("refund-mail", address, now);
    let text = check(&command);
    assert_eq!(text["amount"]["kind"], "rate_now");
    let made = refunds.create(&issuer, command).await.unwrap();
    check_answer(&made);
    let command = AnswerRefund {
        key: key("refund-answer"),
        refund: made.id,
        asked: made.ask.clone().unwrap(),
        body: r#"{"tag":"payRequest","callback":"https://x.com","minSendable":1,"maxSendable":900000000,"metadata":"[]"}"#
            .to_owned(),
    };
    check(&command);
    check_answer(&refunds.answer(&issuer, command).await.unwrap());
    let command = CancelRefund {
        key: key("refund-cancel"),
        refund: made.id,
    };
    check(&command);
    check_answer(&refunds.cancel(&issuer, command).await.unwrap());
    let bolt11 = shop.customer.invoice(7_000, "back").await.unwrap();
    let some = RefundAmount::Bitcoin { amount_msat: 7_000 };
    let command = create("refund-bolt11", RefundTo::Bolt11 { bolt11 }, some);
    check(&command);
    check_answer(&refunds.create(&issuer, command).await.unwrap());
    let command = ResolveRefund {
        key: key("refund-resolve"),
        refund: made.id,
        outcome: RefundOutcome::Succeeded {
            fee_msat: Some(1_000),
        },
        reason: "seen".to_owned(),
        despite_record: false,
    };
    check(&command);
    let on_chain = RefundTo::OnChain {
        address: "bcrt1q".to_owned(),
        fee_sat_per_kvb: None,
    };
    check(&create("refund-chain", on_chain, RefundAmount::Surplus));
    check_answer(&refunds.get(&issuer, made.id).await.unwrap());
    check_answer(&refunds.list(&issuer, sale.id, None, 10).await.unwrap());
}

/// The commands about invoices that are more than a price.
async fn invoice_commands(
    shop: &shop::Simulated,
    merchant: &flashkit::settlement::Merchant,
    invoice: flashkit::ids::InvoiceId,
) {
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let rules = PaymentRules {
        accept_under_per_mille: 5,
        ask_for_rest: true,
        surplus: Some(SurplusTo::Refund),
        accept_late_within_per_mille: Some(10),
        refund_up_to_per_mille: Some(1_200),
        confirmations: vec![ConfirmationTier {
            up_to_msat: 1_000_000,
            confirmations: 0,
        }],
    };
    let command = SetInvoicePolicy {
        key: key("policy"),
        merchant: merchant.id,
        rules,
    };
    check(&command);
    check_answer(
        &engine
            .invoices()
            .set_policy(&issuer, command)
            .await
            .unwrap(),
    );
    check_answer(
        &engine
            .invoices()
            .policy(&issuer, merchant.id)
            .await
            .unwrap(),
    );
    let options = InvoiceOptions {
        order_reference: "Table 4".to_owned(),
        lines: vec![InvoiceLine {
            description: "patty".to_owned(),
            quantity: 2,
            unit_price_minor: 400,
            tax_minor: 100,
        }],
        tip_minor: 100,
        hold: true,
        ..InvoiceOptions::default()
    };
    let command = CreateInvoice {
        key: key("held"),
        purpose: InvoicePurpose::Contribution {
            merchant: merchant.id,
        },
        price: Some(flashkit::money::Price::Bitcoin { amount_msat: 1_000 }),
        description: "lunch".to_owned(),
        expiry_seconds: 600,
        options,
    };
    let value = check(&command);
    assert!(value["options"].get("metadata").is_none());
    let held = engine.invoices().create(&issuer, command).await.unwrap();
    check_answer(&held);
    let filter = InvoiceFilter {
        order_reference: Some("table 4".to_owned()),
        ..InvoiceFilter::default()
    };
    check(&filter);
    let found = engine.invoices().search(&issuer, &filter, None, 1).await;
    check_answer(&found.unwrap());
    check(&CaptureInvoice {
        key: key("capture"),
        invoice,
    });
    let command = CancelInvoice {
        key: key("cancel"),
        invoice: held.id,
    };
    check(&command);
    check_answer(&engine.invoices().cancel(&issuer, command).await.unwrap());
    let command = MarkInvoice {
        key: key("mark"),
        invoice: held.id,
        as_state: MarkedAs::Settled,
        reason: "cash".to_owned(),
    };
    check(&command);
    check_answer(&engine.invoices().mark(&issuer, command).await.unwrap());
    check(&OnChainFact {
        outpoint: Outpoint {
            txid: [1; 32],
            vout: 1,
        },
        amount_sat: 1_000,
        first_known_ms: 1,
        place: OnChainPlace::Block {
            height: 1,
            hash: "00".to_owned(),
            confirmations: 1,
        },
    });
}

/// Receipts, and what a third party is handed.
#[tokio::test]
async fn receipt_records() {
    use flashkit::receipts::{
        IssueReceipt, OnChainProof, ProveReceipt, ReceiptSettings, RotateReceiptKey,
        SetReceiptSettings, Trust, verify,
    };

    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let shop = shop::simulated(store).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let merchant = shop::merchant(engine, "Cookshop").await;
    let receipts = engine.receipts();
    let command = SetReceiptSettings {
        key: key("settings"),
        merchant: Some(merchant.id),
        settings: ReceiptSettings::default(),
    };
    let value = check(&command);
    assert_eq!(value["settings"]["language"], json!("en"));
    assert!(value["settings"].get("footer").is_none());
    check_answer(&receipts.set_settings(&issuer, command).await.unwrap());
    check_answer(&receipts.settings(&issuer, None).await.unwrap());
    let invoice = shop::sale(engine, &merchant, "sale", sat(1_000)).await;
    shop.customer.pay(&invoice.bolt11).await.unwrap();
    shop::settled(engine, &invoice).await;
    let command = IssueReceipt {
        key: key("print"),
        invoice: invoice.id,
    };
    check(&command);
    let issued = receipts.issue(&issuer, command).await.unwrap();
    let value = check_answer(&issued);
    assert_eq!(value["value"]["receipt"]["kind"], json!("sale"));
    check_answer(&receipts.of_invoice(&issuer, invoice.id).await.unwrap());
    check(&RotateReceiptKey { key: key("rotate") });
    check_answer(&receipts.keys().await.unwrap());
    let query = ProveReceipt {
        merchant: Some(merchant.id),
        number: 1,
        through_height: None,
    };
    assert!(check(&query).get("through_height").is_none());
    let bundle = receipts.prove(&issuer, query).await.unwrap();
    check_answer(&bundle);
    let trust = Trust {
        keys: receipts.keys().await.unwrap().value,
        ..Trust::default()
    };
    check(&trust);
    check(&verify(&bundle, &trust).unwrap());
    check(&OnChainProof {
        transaction: "00".to_owned(),
        vout: 1,
        position: 1,
        siblings: vec!["00".to_owned()],
        headers: vec!["00".to_owned()],
    });
    engine.stop().await.unwrap();
}

/// Links, buttons and addresses.
#[tokio::test]
async fn checkout_records() {
    use flashkit::checkout::{
        ButtonStyle, ErasePayerNote, PayAddressTerms, PayerDataWanted, PayerField, PayerNote,
        SetPayAddress, payment_button,
    };

    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let shop = shop::simulated(store).await;
    let (engine, issuer) = (&shop.engine, shop.engine.issuer());
    let merchant = shop::merchant(engine, "Cookshop").await;
    let command = SetPayAddress {
        key: key("address"),
        name: "cookshop".to_owned(),
        merchant: Some(merchant.id),
        terms: PayAddressTerms {
            min_sendable_msat: 1_000,
            max_sendable_msat: 1_000_000,
            description: "Cookshop".to_owned(),
            long_description: String::new(),
            comment_allowed: 10,
            payer_data: PayerDataWanted {
                name: Some(PayerField { mandatory: true }),
                auth: Some(PayerField { mandatory: false }),
                ..PayerDataWanted::default()
            },
            invoices_per_hour: 10,
            closed: false,
        },
    };
    let value = check(&command);
    assert!(value["terms"].get("closed").is_none());
    assert_eq!(
        value["terms"]["payer_data"]["name"]["mandatory"],
        json!(true)
    );
    let checkout = engine.checkout();
    check_answer(&checkout.set_address(&issuer, command).await.unwrap());
    let all = checkout.addresses(&issuer, Some(merchant.id), None, 10);
    check_answer(&all.await.unwrap());
    check(&checkout.answer("/.well-known/lnurlp/cookshop").await);
    let invoice = shop::sale(engine, &merchant, "sale", sat(1_000)).await;
    let link = checkout.link(&issuer, invoice.id).await.unwrap();
    check_answer(&link);
    let style = ButtonStyle::default();
    check(&style);
    check(&payment_button(&link, &style).unwrap());
    check(&PayerNote {
        invoice: invoice.id,
        comment: "hi".to_owned(),
        data: [("name".to_owned(), "Ann".to_owned())].into(),
    });
    let command = ErasePayerNote {
        key: key("erase"),
        invoice: invoice.id,
    };
    check(&command);
    check_answer(&checkout.erase_payer_note(&issuer, command).await.unwrap());
    engine.stop().await.unwrap();
}

#[cfg(feature = "chain")]
fn draining() {
    use flashkit::ids::{DrainId, SpendId};
    use flashkit::wallets::{
        ChannelEnd, DrainNode, DrainSend, DrainState, DrainWait, DrainedChannel, EndDrain,
        NodeDrain,
    };

    let value = check(&DrainNode {
        key: key("drain"),
        address: "bcrt1".to_owned(),
        fee_sat_per_kvb: None,
        force: false,
        even_if_owed: false,
    });
    assert_eq!(value.as_object().map(|fields| fields.len()), Some(2));
    check(&EndDrain {
        key: key("end"),
        drain: DrainId::from_parts(1, [1; 10]),
    });
    check(&NodeDrain {
        id: DrainId::from_parts(1, [1; 10]),
        state: DrainState::Sweeping,
        waits_for: vec![DrainWait::Confirmations],
        address: "bcrt1".to_owned(),
        fee_sat_per_kvb: Some(2_000),
        force: true,
        channels_msat: 1,
        closing_msat: 2,
        onchain_msat: 3,
        channels: vec![DrainedChannel {
            channel: "1".to_owned(),
            peer_node_id: "02".to_owned(),
            ours_msat: 1,
            end: ChannelEnd::Asked,
            asked_at_ms: Some(1),
            refusal: Some("away".to_owned()),
        }],
        sends: vec![DrainSend {
            txid: "00".to_owned(),
            of_msat: 1,
            amount_msat: Some(1),
            fee_msat: None,
            is_confirmed: false,
            is_gone: true,
            sent_at_ms: 1,
        }],
        spends: vec![SpendId::from_parts(1, [1; 10])],
        frozen: vec!["00:1".to_owned()],
        refusal: None,
        closing_fees_msat: Some(1),
        is_ended: true,
        started_at_ms: 1,
        done_at_ms: None,
    });
}

#[cfg(feature = "chain")]
#[test]
fn wallet_commands() {
    use flashkit::ids::{SpendId, WalletId};
    use flashkit::wallets::{
        AddWallet, BumpSpend, CancelSpend, ImportLabels, NewAddress, NodeFunds, PrepareSpend,
        SpendOutput, SpendTarget, SubmitSpend, WalletOwner, WalletSource, WatchProblem, WatchRound,
        WithdrawEverything, Withdrawal, XpubKind,
    };

    let wallet = WalletId::from_parts(1, [1; 10]);
    let spend = SpendId::from_parts(1, [1; 10]);
    let merchant = MerchantId::from_parts(1, [1; 10]);
    for source in [
        WalletSource::Node,
        WalletSource::Xpub {
            xpub: "xpub".to_owned(),
            script: Some(XpubKind::Taproot),
        },
        WalletSource::Descriptor {
            external: "wpkh".to_owned(),
            change: None,
        },
    ] {
        let value = check(&AddWallet {
            key: key("wallet"),
            owner: WalletOwner::Merchant { merchant },
            name: "till".to_owned(),
            source,
            used_addresses: 0,
            birthday_height: None,
        });
        assert!(value.get("birthday_height").is_none());
    }
    check(&NewAddress {
        key: key("address"),
        wallet,
        label: "table 4".to_owned(),
    });
    let (address, amount_sat) = ("bcrt1".to_owned(), u64::MAX);
    let outputs = vec![SpendOutput {
        address: address.clone(),
        amount_sat,
    }];
    for target in [
        SpendTarget::Pay { outputs },
        SpendTarget::Everything { address },
    ] {
        let value = check(&PrepareSpend {
            key: key("spend"),
            wallet,
            target,
            fee_sat_per_kvb: None,
        });
        assert!(value["target"]["kind"].is_string());
    }
    check(&BumpSpend {
        key: key("bump"),
        spend,
        fee_sat_per_kvb: 1,
    });
    check(&SubmitSpend {
        key: key("submit"),
        spend,
        psbt: Some("cHNidP8=".to_owned()),
    });
    check(&CancelSpend {
        key: key("cancel"),
        spend,
    });
    let value = check(&WithdrawEverything {
        key: key("withdraw"),
        wallet,
        address: "bcrt1".to_owned(),
        fee_sat_per_kvb: None,
        max_coins: None,
    });
    assert!(value.get("max_coins").is_none());
    check(&Withdrawal {
        wallet,
        address: "bcrt1".to_owned(),
        spends: vec![spend],
        amount_sat: 1,
        fee_sat: 1,
        left_sat: 0,
        node: Some(NodeFunds {
            channels_msat: 1,
            closing_msat: 0,
            onchain_msat: 1,
        }),
    });
    draining();
    check(&ImportLabels {
        key: key("labels"),
        wallet,
        lines: String::new(),
    });
    let round = WatchRound {
        scripts: 1,
        changed: 0,
        is_complete: true,
        ..WatchRound::default()
    };
    assert!(check(&round).get("problems").is_none());
    check(&WatchRound {
        problems: vec![WatchProblem {
            address: Some("bcrt1".to_owned()),
            code: "chain.bad_answer".to_owned(),
            detail: "no".to_owned(),
        }],
        left_out: 1,
        ..round
    });
}
