//! Who may do what: the table of `docs/guide/card-life.md`, done.

use std::collections::BTreeMap;

use flashkit::access::Credential;
use flashkit::cards::{
    ActivateCard, AuthorizeCard, BearerUnit, CaptureCharge, CardLimits, ChargeCard, IssueCard,
    IssueVirtualCard, MakeRecoveryCode, OfflineEnvelope, PayWithCard, RefundCharge,
    RegisterBearerCard, ReleaseCharge, RenewHolder, RetireTo, SetAutoTopUp, SetCardExpiry,
    SetCardLimits, SetCardNote, SetCardPin, TopUpCard, UnlockCardCode, UnlockCardPin, WipeCard,
};
use flashkit::ids::{
    CardId, CardPaymentId, CardProgramId, ChargeId, CredentialId, MerchantId, ProgramId, TransferId,
};
use flashkit::rewards::RedeemPoints;
use flashkit::{Engine, Error};

use crate::desk;
use crate::hands::{add, blank, freeze, lose, replace, retire, unfreeze};
use crate::support::key;
use crate::support::scene::{Scene, digits};
use crate::support::shop::{self, sat};

const TABLE: &str = include_str!("../../docs/guide/card-life.md");

/// What the table says: of each call, who may.
fn table() -> (Vec<String>, BTreeMap<String, Vec<bool>>) {
    let mut lines = TABLE.lines().filter(|line| line.starts_with("| "));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let head = lines.find(|line| line.starts_with("| call ")).unwrap();
    let who = cells(head)[1..].to_vec();
    let rows = lines.map(|line| {
        let cells = cells(line);
        let may = cells[1..].iter().map(|cell| match cell.as_str() {
            "+" => true,
            "-" => false,
            other => panic!("{other}"),
        });
        (cells[0].clone(), may.collect())
    });
    let rows: BTreeMap<String, Vec<bool>> = rows.collect();
    (who, rows)
}

/// What the calls are about.
pub struct About {
    pub card: CardId,
    pub blank: CardId,
    pub merchant: MerchantId,
    pub till: CredentialId,
    pub charge: ChargeId,
    pub payment: CardPaymentId,
    pub program: ProgramId,
    pub card_program: CardProgramId,
    pub transfer: TransferId,
    pub envelope: OfflineEnvelope,
    pub bolt11: String,
    pub taps: Vec<String>,
}

pub type Done = Result<(), String>;

pub fn done<T>(answer: Result<T, Error>) -> Done {
    answer.map(drop).map_err(|error| error.code().to_owned())
}

fn short<T>(answer: Result<T, &'static str>) -> Done {
    answer.map(drop).map_err(str::to_owned)
}

async fn issue(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key, card) = (engine.cards(), key(name), about.card);
    let (uid, limits) = ("04a39493ccffff".to_owned(), CardLimits::default());
    match call {
        "issue" => done(
            cards
                .issue(
                    by,
                    IssueCard {
                        key,
                        uid,
                        existing_chip: None,
                        limits,
                        program: None,
                    },
                )
                .await,
        ),
        "issue_virtual" => done(
            cards
                .issue_virtual(
                    by,
                    IssueVirtualCard {
                        key,
                        limits,
                        expires_at_ms: None,
                        program: None,
                    },
                )
                .await,
        ),
        "register_bearer" => {
            let public_key = format!("03{}", "7b".repeat(32));
            done(
                cards
                    .register_bearer(
                        by,
                        RegisterBearerCard {
                            key,
                            public_key,
                            unit: BearerUnit::Sat,
                        },
                    )
                    .await,
            )
        }
        "list_beside" => done(cards.list_beside(by, false, None, 10).await),
        "programming_keys" => done(cards.programming_keys(by, shop::UID).await),
        "wipe_keys" => done(cards.wipe_keys(by, shop::UID, None).await),
        "wipe" => done(cards.wipe(by, WipeCard { key, card }).await),
        "activate" => done(
            cards
                .activate(
                    by,
                    ActivateCard {
                        key,
                        card: about.blank,
                    },
                )
                .await,
        ),
        "renew_holder" => done(
            cards
                .renew_holder(
                    by,
                    RenewHolder {
                        key,
                        card: about.blank,
                    },
                )
                .await,
        ),
        "set_expiry" => done(
            cards
                .set_expiry(
                    by,
                    SetCardExpiry {
                        key,
                        card,
                        expires_at_ms: None,
                    },
                )
                .await,
        ),
        other => panic!("{other} is in the table, and nowhere else"),
    }
}

async fn look(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key, card) = (engine.cards(), key(name), about.card);
    match call {
        "get" => done(cards.get(by, card).await),
        "history" => done(cards.history(by, card, None, 1).await),
        "family" => done(cards.family(by, card).await),
        "note" => done(cards.note(by, card).await),
        "set_note" => done(
            cards
                .set_note(
                    by,
                    SetCardNote {
                        key,
                        card,
                        note: None,
                    },
                )
                .await,
        ),
        "pin_status" => done(cards.pin_status(by, card).await),
        "unlock_pin" => done(cards.unlock_pin(by, UnlockCardPin { key, card }).await),
        "make_recovery_code" => done(
            cards
                .make_recovery_code(by, MakeRecoveryCode { key, card })
                .await,
        ),
        "get_charge" => done(cards.get_charge(by, about.charge).await),
        "list_charges" => done(cards.list_charges(by, about.merchant, None, 1).await),
        "virtual_details" => done(cards.virtual_details(by, card).await),
        "unlock_code" => done(cards.unlock_code(by, UnlockCardCode { key, card }).await),
        "top_up" => done(
            cards
                .top_up(
                    by,
                    TopUpCard {
                        key,
                        card,
                        price: sat(1),
                    },
                )
                .await,
        ),
        "redeem_points" => {
            let command = RedeemPoints {
                key,
                card,
                program: about.program,
                points: 1,
            };
            done(engine.rewards().redeem(by, command).await)
        }
        _ => issue(engine, by, about, call, name).await,
    }
}

pub async fn sell(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, key, charge) = (engine.cards(), key(name), about.charge);
    let tap = about.taps[name.len() % about.taps.len()].clone();
    let (price, reference, pin) = (sat(1), String::new(), None);
    match call {
        "charge" => done(
            cards
                .charge(
                    by,
                    ChargeCard {
                        key,
                        tap,
                        price,
                        reference,
                        pin,
                    },
                )
                .await,
        ),
        "authorize" => done(
            cards
                .authorize(
                    by,
                    AuthorizeCard {
                        key,
                        tap,
                        price,
                        reference,
                        pin,
                    },
                )
                .await,
        ),
        "capture" => done(
            cards
                .capture(
                    by,
                    CaptureCharge {
                        key,
                        charge,
                        amount: flashkit::cards::ChargeAmount::Bitcoin { amount_msat: 1 },
                    },
                )
                .await,
        ),
        "release" => done(cards.release(by, ReleaseCharge { key, charge }).await),
        "refund" => done(
            cards
                .refund(
                    by,
                    RefundCharge {
                        key,
                        charge,
                        amount: flashkit::cards::ChargeAmount::Bitcoin { amount_msat: 1 },
                    },
                )
                .await,
        ),
        _ => look(engine, by, about, call, name).await,
    }
}

async fn act(engine: &Engine, by: &Credential, about: &About, call: &str, name: &str) -> Done {
    let (cards, card) = (engine.cards(), about.card);
    let tap = &about.taps[0];
    match call {
        "freeze" => short(freeze(engine, by, name, card).await),
        "unfreeze" => short(unfreeze(engine, by, name, card).await),
        "report_lost" => short(lose(engine, by, name, card).await),
        "set_pin" => {
            let command = SetCardPin {
                key: key(name),
                card,
                pin: digits("1234"),
            };
            done(cards.set_pin(by, command).await)
        }
        "set_limits" => {
            let command = SetCardLimits {
                key: key(name),
                card,
                limits: CardLimits::default(),
            };
            done(cards.set_limits(by, command).await)
        }
        "set_auto_top_up" => {
            let command = SetAutoTopUp {
                key: key(name),
                card,
                rule: None,
                source: None,
            };
            done(cards.set_auto_top_up(by, command).await)
        }
        // The tap is one of a card that is in use: whoever may, is told so.
        "add_to_family" => done(add(engine, by, name, card, tap, CardLimits::default()).await),
        "replace" => done(replace(engine, by, name, card, tap).await),
        "retire" => short(retire(engine, by, name, card, RetireTo::Breakage).await),
        _ => desk::act(engine, by, about, call, name).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_the_guide_holds() {
    let (who, rows) = table();
    assert_eq!(
        who,
        [
            "issuer",
            "till",
            "other till",
            "holder",
            "other holder",
            "revoked"
        ]
    );
    assert!(rows.len() >= 74, "{} calls", rows.len());
    let (mut allowed, mut refused) = (0, 0);
    let mut scene = Scene::new(false, CardLimits::default()).await;
    let engine = scene.engine().clone();
    let program = shop::program(&engine, scene.merchant.id).await;
    let charge = scene.charge("sale", 1_000).await.unwrap().id;
    let other_till = shop::merchant(&engine, "Rum-bar").await.till;
    let other_holder = shop::card(&engine, &crate::hands::uid(1), CardLimits::default()).await;
    let revoked = scene.card.holder.clone();
    let command = RenewHolder {
        key: key("renew"),
        card: scene.card.id,
    };
    let renewed = engine.cards().renew_holder(&engine.issuer(), command).await;
    let holder = renewed.unwrap().holder.clone();
    let sale = shop::sale(&engine, &scene.merchant, "own", sat(1)).await;
    let command = PayWithCard {
        key: key("own"),
        tap: scene.card.chip.tap(),
        bolt11: sale.bolt11.clone(),
        pin: None,
    };
    let payment = engine.cards().pay(&scene.merchant.till, command).await;
    let history = engine
        .cards()
        .history(&holder, scene.card.id, None, 1)
        .await;
    let about = About {
        till: shop::id_of(&scene.merchant.till),
        payment: payment.unwrap().id,
        card_program: desk::program(&engine).await,
        transfer: history.unwrap()[0].id,
        envelope: desk::envelope(&engine, &scene.merchant, &scene.card.chip.tap()).await,
        bolt11: shop::sale(&engine, &scene.merchant, "bill", sat(1))
            .await
            .bolt11
            .clone(),
        card: scene.card.id,
        blank: blank(&engine, 2).await.0,
        merchant: scene.merchant.id,
        charge,
        program,
        taps: (0..60).map(|_| scene.card.chip.tap()).collect(),
    };
    let by = [
        engine.issuer(),
        scene.merchant.till.clone(),
        other_till,
        holder,
        other_holder.holder,
        revoked,
    ];
    // Those who may not come first, so that nothing has changed for them; what ends the card
    // comes last.
    let last = |call: &String| call == "report_lost" || call == "revoke_till";
    let mut calls: Vec<&String> = rows.keys().filter(|call| !last(call)).collect();
    calls.extend(rows.keys().filter(|call| last(call)));
    for wanted in [false, true] {
        for call in &calls {
            for (place, may) in rows[*call].iter().enumerate() {
                if *may != wanted {
                    continue;
                }
                let name = format!("{call}/{place}");
                let answer = act(&engine, &by[place], &about, call, &name).await;
                let code = answer.err().unwrap_or_default();
                let needed = if who[place] == "revoked" {
                    "access.revoked"
                } else {
                    "access.not_allowed"
                };
                if wanted {
                    assert!(
                        !code.starts_with("access."),
                        "{call} by {}: {code}",
                        who[place]
                    );
                    allowed += 1;
                } else {
                    assert_eq!(code, needed, "{call} by {}", who[place]);
                    refused += 1;
                }
            }
        }
        if !wanted {
            // Nothing of all that did anything.
            assert_eq!(scene.balance_by(&engine.issuer()).await, 48_999);
        }
    }
    println!(
        "{} calls: {allowed} times allowed, {refused} times refused",
        rows.len()
    );
    scene.stop("who").await;
}
