//! The rest of the table of who may do what: payments, taps taken offline, programs, imports.

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::boltcard::IssuerKey;
use flashkit::cards::{
    CardLimits, CardPaymentOutcome, CardProgramTerms, CardReceiptOf, CardStatementQuery,
    CreateCardImport, CreateCardProgram, CutOver, ImportIssuerKey, IssueCards, LossBearer,
    OfflineBook, OfflineEnvelope, OfflineKey, OfflineTerms, PayWithCard, RenewTopUpAddress,
    ResolveCardPayment, RollBack, RotateIssuerKey, SetOfflineTerms, StoppedCard, SyncCounters,
    UpdateCardProgram, WithdrawFromCard,
};
use flashkit::ids::{CardImportId, CardProgramId};
use flashkit::ports::{Clock, SystemClock};
use flashkit::reports::{ExportFormat, StatementPeriod};
use flashkit::settlement::{PairTill, RevokeTill, SetMerchantCategory};

use crate::support::key;
use crate::support::scene::NOON;
use crate::support::shop::{self, Merchant, SAT};
use crate::who::{About, Done, done, sell};

const TERMS: OfflineTerms = OfflineTerms {
    per_tap_msat: 1_000 * SAT,
    per_day_msat: 10_000 * SAT,
    window_ms: 3_600_000,
    loss: LossBearer::Merchant,
    stopped_card: StoppedCard::Loss,
};

pub async fn program(engine: &Engine) -> CardProgramId {
    let command = CreateCardProgram {
        key: key("program"),
        name: "Students".to_owned(),
        terms: CardProgramTerms::default(),
    };
    let programs = engine.cards().programs();
    programs.create(&engine.issuer(), command).await.unwrap().id
}

/// A tap that the merchant's till took offline.
pub async fn envelope(engine: &Engine, merchant: &Merchant, tap: &str) -> OfflineEnvelope {
    let cards = engine.cards();
    let command = SetOfflineTerms {
        key: key("terms"),
        merchant: merchant.id,
        till: None,
        terms: Some(TERMS),
    };
    cards
        .set_offline_terms(&engine.issuer(), command)
        .await
        .unwrap();
    let (secret, till) = (OfflineKey::new([5; 32]).unwrap(), &merchant.till);
    let command = secret.enroll(shop::id_of(till), key("enroll")).unwrap();
    let enrolled = cards.enroll_offline_key(till, command).await.unwrap();
    let mut book = OfflineBook::new(&enrolled).unwrap();
    book.accept(tap, SAT, "offline", NOON).unwrap();
    book.envelope(&secret).unwrap().unwrap()
}

pub async fn act(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key, card) = (engine.cards(), key(name), about.card);
    match call {
        "pay" => {
            let (tap, bolt11, pin) = (about.taps[50].clone(), about.bolt11.clone(), None);
            let command = PayWithCard {
                key,
                tap,
                bolt11,
                pin,
            };
            done(cards.pay(by, command).await)
        }
        "withdraw" => {
            let command = WithdrawFromCard {
                key,
                card,
                bolt11: "none".to_owned(),
                amount_msat: None,
            };
            done(cards.withdraw(by, command).await)
        }
        "quote_withdrawal" => done(cards.quote_withdrawal(by, card).await),
        "get_payment" => done(cards.get_payment(by, about.payment).await),
        "list_payments" => done(cards.list_payments(by, card, None, 1).await),
        "resolve_payment" => {
            let command = ResolveCardPayment {
                key,
                payment: about.payment,
                outcome: CardPaymentOutcome::Failed,
                reason: "said".to_owned(),
                despite_record: true,
            };
            done(cards.resolve_payment(by, command).await)
        }
        "top_up_address" => done(cards.top_up_address(by, card).await),
        "renew_top_up_address" => {
            let command = RenewTopUpAddress { key, card };
            done(cards.renew_top_up_address(by, command).await)
        }
        _ => offline(engine, by, about, call, name).await,
    }
}

async fn offline(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key, merchant) = (engine.cards(), key(name), about.merchant);
    match call {
        "set_offline_terms" => {
            let command = SetOfflineTerms {
                key,
                merchant,
                till: None,
                terms: Some(TERMS),
            };
            done(cards.set_offline_terms(by, command).await)
        }
        "enroll_offline_key" => {
            // Each for itself.
            let mut bytes = [6; 32];
            bytes[..8].copy_from_slice(&SystemClock.now_ms().to_be_bytes());
            bytes[8] = u8::try_from(name.len()).unwrap();
            let secret = OfflineKey::new(bytes).unwrap();
            let command = secret.enroll(shop::id_of(by), key).unwrap();
            done(cards.enroll_offline_key(by, command).await)
        }
        "replay_offline" => done(cards.replay_offline(by, about.envelope.clone()).await),
        "offline_enrolment" => done(cards.offline_enrolment(by, about.till).await),
        "list_offline" => done(cards.list_offline(by, merchant, None, 1).await),
        _ => read(engine, by, about, call, name).await,
    }
}

async fn read(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, card) = (engine.cards(), about.card);
    let query = CardStatementQuery {
        card,
        period: StatementPeriod::Between {
            from_ms: 0,
            to_ms: 2 * NOON,
        },
    };
    match call {
        "receipt of a charge" => {
            let of = CardReceiptOf::Charge {
                charge: about.charge,
            };
            done(cards.receipt(by, of).await)
        }
        "receipt of a transfer" => {
            let transfer = about.transfer;
            let of = CardReceiptOf::Transfer { card, transfer };
            done(cards.receipt(by, of).await)
        }
        "statement" => done(cards.statement(by, &query).await),
        "statement_rows" => done(cards.statement_rows(by, &query, None, 1).await),
        "export_statement" => {
            let csv = ExportFormat::Csv;
            done(cards.export_statement(by, &query, csv, None, 1).await)
        }
        _ => found(engine, by, about, call, name).await,
    }
}

async fn found(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key) = (engine.cards(), key(name));
    let (programs, program, merchant) = (cards.programs(), about.card_program, about.merchant);
    let (label, terms) = ("Students".to_owned(), CardProgramTerms::default());
    let (uids, limits) = (vec!["04a39493cceeee".to_owned()], CardLimits::default());
    match call {
        "programs.create" => {
            let command = CreateCardProgram {
                key,
                name: label,
                terms,
            };
            done(programs.create(by, command).await)
        }
        "programs.update" => {
            let command = UpdateCardProgram {
                key,
                program,
                name: label,
                terms,
            };
            done(programs.update(by, command).await)
        }
        "programs.get" => done(programs.get(by, program).await),
        "programs.list" => done(programs.list(by, None, 1).await),
        "issue_batch" => {
            let command = IssueCards {
                key,
                uids,
                limits,
                program: None,
            };
            done(cards.issue_batch(by, command).await)
        }
        "programming_keys_batch" => done(cards.programming_keys_batch(by, &uids).await),
        "set_category of a merchant" => {
            let command = SetMerchantCategory {
                key,
                merchant,
                category: None,
            };
            done(engine.settlement().set_category(by, command).await)
        }
        "pair_till" => {
            let command = PairTill {
                key,
                merchant,
                label,
            };
            done(engine.settlement().pair_till(by, command).await)
        }
        "revoke_till" => {
            let till = about.till;
            let command = RevokeTill { key, till };
            done(engine.settlement().revoke_till(by, command).await)
        }
        _ => brought(engine, by, about, call, name).await,
    }
}

async fn brought(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key) = (engine.cards(), key(name));
    let (imports, import) = (cards.imports(), CardImportId::from_parts(1, [1; 10]));
    match call {
        "issuer_keys" => done(cards.issuer_keys(by).await),
        "rotate_issuer_key" => done(cards.rotate_issuer_key(by, RotateIssuerKey { key }).await),
        "import_issuer_key" => {
            let command = ImportIssuerKey {
                key,
                issuer_key: IssuerKey::new([8; 16]),
            };
            done(cards.import_issuer_key(by, command).await)
        }
        "imports.create" => {
            let known = cards.issuer_keys(&engine.issuer()).await.unwrap();
            let command = CreateCardImport {
                key,
                name: "old".to_owned(),
                issuer_key: known[0].id,
                limits: CardLimits::default(),
                program: None,
            };
            done(imports.create(by, command).await)
        }
        "imports.get" => done(imports.get(by, import).await),
        "imports.check" => done(imports.check(by, import, &[]).await),
        "imports.cut_over" => {
            let command = CutOver {
                key,
                import,
                old_issuer_is_frozen: true,
                cards: Vec::new(),
            };
            done(imports.cut_over(by, command).await)
        }
        "imports.sync_counters" => {
            let command = SyncCounters {
                key,
                import,
                counters: Vec::new(),
            };
            done(imports.sync_counters(by, command).await)
        }
        "imports.roll_back" => {
            let command = RollBack {
                key,
                import,
                cards: None,
                after: None,
                limit: 1,
            };
            done(imports.roll_back(by, command).await)
        }
        "imports.export" => done(imports.export(by, import, None, 1).await),
        _ => sell(engine, by, about, call, name).await,
    }
}
