//! Plain transfers, told to a store directly.
#![allow(dead_code, reason = "every bench uses its own part")]

use flashkit::ids::{BatchId, CardId, MerchantId, TransferId};
use flashkit::ledger::{
    Account, Batch, CommandRecord, NewEvent, NewTransfer, Side, Step, TransferKind,
};
use flashkit::store::Store;

/// The bench's own errors end it.
pub type Done<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub const AMOUNT_MSAT: i64 = 1_000;
pub const FUNDS_MSAT: i64 = 1_000_000_000_000;

/// The random part of an id: those of greater numbers come later.
pub fn numbered(number: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    random
}

fn transfer(number: u64, debit: Account, credit: Account, amount: i64) -> Step {
    Step::Transfer(NewTransfer {
        id: TransferId::from_parts(1, numbered(number)),
        debit,
        credit,
        amount,
        kind: TransferKind::Charge,
        reference: "benchmark".to_owned(),
        credit_ceiling: None,
    })
}

/// Money on the cards from the node's channels: a top-up would need a node.
pub async fn fund(store: &dyn Store, cards: &[CardId]) -> Done {
    let mut steps = Vec::new();
    for (number, card) in cards.iter().enumerate() {
        let card = Account::card_balance(*card);
        let number = u64::MAX - u64::try_from(number)?;
        steps.push(transfer(number, Account::node_channels(), card, FUNDS_MSAT));
    }
    let id = BatchId::from_parts(1, [255; 10]);
    let command = None;
    store
        .commit(Batch {
            id,
            command,
            steps: steps.into(),
        })
        .await?;
    Ok(())
}

/// A transfer with an idempotency key and an event.
pub fn batch(number: u64, card: CardId, credit: Account) -> Batch {
    let key = format!("till/charge/{number:012}");
    let event = NewEvent {
        kind: "card.charged",
        object: card.to_string(),
        body: serde_json::json!(key).into(),
    };
    let debit = Account::card_balance(card);
    Batch {
        id: BatchId::from_parts(1, numbered(number)),
        command: Some(CommandRecord {
            scope: key,
            fingerprint: "benchmark".to_owned(),
            answer: serde_json::Value::Null.into(),
        }),
        steps: vec![
            transfer(number, debit, credit, AMOUNT_MSAT),
            Step::Emit(event),
        ]
        .into(),
    }
}

/// Debits equal credits, and the merchants have what the cards have lost: exactly so many
/// transfers.
pub async fn is_conserved(
    store: &dyn Store,
    merchants: &[MerchantId],
    cards: usize,
    transfers: u64,
) -> Done<bool> {
    let (mut debits, mut credits, mut on_cards, mut after) = (0, 0, 0, None);
    loop {
        let page = store.balances(after, 1_000).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (account, balance) in page {
            debits += balance.debits_posted;
            credits += balance.credits_posted;
            let is_pending = balance.debits_pending != 0 || balance.credits_pending != 0;
            if is_pending {
                return Ok(false);
            }
            if account.to_string().starts_with("card_balance/") {
                on_cards += balance.posted(Side::Credit);
            }
        }
    }
    let mut owed = 0;
    for merchant in merchants {
        let payable = Account::merchant_payable(*merchant);
        owed += store.balance(&payable).await?.posted(Side::Credit);
    }
    let moved = i128::from(transfers) * i128::from(AMOUNT_MSAT);
    let funds = i128::from(FUNDS_MSAT) * i128::try_from(cards)?;
    Ok(debits == credits && owed == moved && on_cards + owed == funds)
}

/// The median and the quartiles.
pub fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    (at(2), at(1), at(3))
}
