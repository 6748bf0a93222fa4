//! Whoever holds a card is told when its balance falls below a threshold, whatever took it there.
//!
//! What is on a card is known once it is committed, not when it is decided: two charges at once
//! may cross the threshold together, and neither by itself. So whatever takes money from a card
//! sets a job, which reads in the books what each commit has left, from where it read last, and
//! tells each time once. A family's cards have one balance, and a threshold each.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::life;
use super::model::{Card, CardState, LowBalance};
use super::{Cards, load};
use crate::Error;
use crate::cards::CardError;
use crate::core::{Core, Loaded, emit, put};
use crate::ids::{CardId, ChargeId};
use crate::ledger::{Account, AccountKind, DueJob, Owner, Side, Step, TransferKind, TransferRow};
use crate::store::MAX_PAGE;

/// The job that looks what was left on a card.
pub(crate) const LOW_BALANCE_JOB: &str = "card.low_balance";

const WATCHES: &str = "card_low_balance";

/// How far the rows of a card's balance were looked at for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Watch {
    position: i64,
}

/// The job, of a card whose balance somebody may want to be told of. `by` is what took the money:
/// every job has a name of its own, so that the end of one ends no other.
pub(super) fn look(card: &Card, by: impl Display, at_ms: i64) -> Option<Step> {
    let wants = card.limits.low_balance.is_some();
    (wants || card.has_family || card.family_of.is_some()).then(|| {
        let owner = card.family_of.unwrap_or(card.id);
        Step::Due(DueJob {
            kind: LOW_BALANCE_JOB.to_owned(),
            object: format!("{owner}/{by}"),
            due_at_ms: at_ms,
        })
    })
}

/// What is looked at once `by` has taken money from a card: how much is left, and whether it is to
/// be filled up.
pub(super) fn looks(core: &Core, card: &Card, by: impl Display) -> Vec<Step> {
    let at_ms = core.clock.now_ms();
    let mut steps = life::look_for_top_up(card, at_ms);
    steps.extend(look(card, by, at_ms));
    steps
}

/// The job, where what was taken came from a card's balance.
pub(crate) async fn look_at(
    core: &Core,
    account: Account,
    by: impl Display,
) -> Result<Option<Step>, Error> {
    let (AccountKind::CardBalance, Owner::Card(owner)) = (account.kind(), account.owner()) else {
        return Ok(None);
    };
    match load(core, owner).await {
        Ok(card) => Ok(look(&card.value, by, core.clock.now_ms())),
        Err(Error::Card(CardError::NotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The step that begins to watch a card whose balance has moved before: what went before is not
/// told.
pub(super) async fn begin(core: &Core, card: &Card) -> Result<Option<Step>, Error> {
    if card.limits.low_balance.is_none() {
        return Ok(None);
    }
    let newest = core
        .store
        .transfers(&card.balance_account(), None, 1)
        .await?;
    let position = newest.first().map_or(0, |row| row.position);
    let version = load_watch(core, card.id)
        .await?
        .map_or(0, |found| found.version);
    write(card.id, version, &Watch { position }).map(Some)
}

async fn load_watch(core: &Core, card: CardId) -> Result<Option<Loaded<Watch>>, Error> {
    core.load(WATCHES, &card.to_string()).await
}

fn write(card: CardId, read_version: i64, watch: &Watch) -> Result<Step, Error> {
    put(WATCHES, card.to_string(), read_version, watch, Vec::new())
}

/// What one commit did to a balance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    before: i64,
    after: i64,
    /// The last transfer of it that took something.
    taken_by: Option<TransferRow>,
}

/// The commits of an account's rows, oldest first; the rows come newest first.
fn by_commit(rows: &[TransferRow], account: &Account) -> Vec<Moved> {
    let mut found: Vec<(i64, Moved)> = Vec::new();
    for row in rows.iter().rev() {
        let after = row.balance_after(account);
        let grows = (account.kind().side() == Side::Credit) == (row.credit == *account);
        let change = if grows { row.amount } else { -row.amount };
        if found.last().is_none_or(|(commit, _)| *commit != row.commit) {
            let moved = Moved {
                before: after.saturating_sub(change),
                after,
                taken_by: None,
            };
            found.push((row.commit, moved));
        }
        if let Some((_, moved)) = found.last_mut() {
            moved.after = after;
            if !grows {
                moved.taken_by = Some(row.clone());
            }
        }
    }
    found.into_iter().map(|(_, moved)| moved).collect()
}

/// The transfers that crossed the threshold, each on the way down.
fn crossings(moved: &[Moved], threshold: i64) -> impl Iterator<Item = &TransferRow> {
    moved
        .iter()
        .filter(move |one| one.after < threshold && one.before >= threshold)
        .filter_map(|one| one.taken_by.as_ref())
}

/// True of the transfer with which a card's money went elsewhere for good.
fn is_end(row: &TransferRow, account: &Account) -> bool {
    use TransferKind::{Breakage, Replacement, Retirement};

    row.debit == *account && matches!(row.kind, Replacement | Retirement | Breakage)
}

/// The rows, newest first, of the time in which a card was in use.
fn while_in_use<'a>(card: &Card, rows: &'a [TransferRow], account: &Account) -> &'a [TransferRow] {
    use CardState::{Replaced, Retired, Wiped};

    if !matches!(card.state, Replaced | Retired | Wiped) {
        return rows;
    }
    let end = rows.iter().rposition(|row| is_end(row, account));
    end.and_then(|end| rows.get(end + 1..)).unwrap_or_default()
}

impl Cards {
    /// Tells whoever wants to know of the balance that the job is about.
    pub(crate) async fn tell_low_balance(&self, object: &str) -> Result<(), Error> {
        let owner = match object.split_once('/') {
            Some((owner, _)) => owner.parse::<CardId>().ok(),
            // One that an earlier version has set.
            None => match object.parse::<ChargeId>() {
                Ok(charge) => Some(self.load_charge(charge).await?.value.charge.card),
                Err(_) => None,
            },
        };
        self.core
            .settle(|| async move {
                let mut steps = vec![Step::Done {
                    kind: LOW_BALANCE_JOB,
                    object: object.to_owned(),
                }];
                if let Some(owner) = owner {
                    let card = load(&self.core, owner).await?.value;
                    let owner = card.family_of.unwrap_or(owner);
                    steps.extend(self.lows(owner).await?);
                }
                Ok(Some(steps))
            })
            .await
            .map(drop)
    }

    /// The steps that tell what is new of a balance.
    async fn lows(&self, owner: CardId) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let main = load(core, owner).await?.value;
        let account = main.balance_account();
        let mut cards = vec![main];
        cards.extend(life::members(core, owner).await?);
        let mut steps = Vec::new();
        for card in cards {
            let Some(threshold) = card.limits.low_balance else {
                continue;
            };
            let watch = load_watch(core, card.id).await?;
            let (version, from) = watch.map_or((0, 0), |it| (it.version, it.value.position));
            let rows = self.rows_after(&account, from).await?;
            let Some(newest) = rows.first() else {
                continue;
            };
            let position = newest.position;
            let moved = by_commit(while_in_use(&card, &rows, &account), &account);
            for row in crossings(&moved, threshold) {
                // By a charge that an earlier version has told of.
                let told = format!("low_balance/{}", row.reference);
                if version == 0 && core.store.claim(&told).await?.is_some() {
                    continue;
                }
                let low = told_of(&card, threshold, row, &account);
                steps.push(emit("card.low_balance", card.id.to_string(), &low)?);
            }
            steps.push(write(card.id, version, &Watch { position })?);
        }
        Ok(steps)
    }

    /// The rows of an account after a position, newest first.
    async fn rows_after(&self, account: &Account, after: i64) -> Result<Vec<TransferRow>, Error> {
        let (mut rows, mut before): (Vec<TransferRow>, _) = (Vec::new(), None);
        loop {
            let page = self.core.store.transfers(account, before, MAX_PAGE).await?;
            let is_last = page.len() < MAX_PAGE;
            let new = page.into_iter().take_while(|row| row.position > after);
            let found = rows.len();
            rows.extend(new);
            before = rows.last().map(|row| row.position);
            if is_last || rows.len() - found < MAX_PAGE {
                return Ok(rows);
            }
        }
    }
}

fn told_of(card: &Card, threshold: i64, row: &TransferRow, account: &Account) -> LowBalance {
    LowBalance {
        card: card.id,
        charge: row.reference.parse().ok(),
        kind: row.kind,
        transfer: row.id,
        reference: row.reference.clone(),
        unit: card.unit,
        balance: row.balance_after(account),
        threshold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TransferId;

    /// Rows of an account, newest first, from what each commit did one after the other.
    fn rows(account: Account, commits: &[&[i64]]) -> Vec<TransferRow> {
        let (mut balance, mut position, mut rows) = (0, 0, Vec::new());
        for (commit, changes) in (1..).zip(commits) {
            for change in *changes {
                balance += change;
                position += 1;
                let (debit, credit) = match *change > 0 {
                    true => (Account::node_channels(), account),
                    false => (account, Account::node_channels()),
                };
                rows.push(TransferRow {
                    position,
                    commit,
                    id: TransferId::from_parts(position.unsigned_abs(), [0; 10]),
                    follows: None,
                    at_ms: 0,
                    debit,
                    credit,
                    amount: change.abs(),
                    kind: TransferKind::Charge,
                    reference: String::new(),
                    debit_balance_after: balance,
                    credit_balance_after: balance,
                });
            }
        }
        rows.reverse();
        rows
    }

    #[test]
    fn a_threshold_is_crossed_once_each_time_on_the_way_down() {
        let account = Account::card_balance(CardId::from_parts(1, [1; 10]));
        let told: &[(&[&[i64]], &[i64])] = &[
            (&[&[1_001], &[-1]], &[]),
            (&[&[1_000], &[-1]], &[2]),
            (&[&[1_000], &[-500], &[-400]], &[2]),
            (&[&[1_000], &[-1_000], &[1_000], &[-1_000]], &[2, 4]),
            (&[&[999], &[-1]], &[]),
            // What a commit takes and gives at once is looked at together.
            (&[&[1_000], &[-900, 900]], &[]),
            (&[&[1_900, -1_200], &[-100]], &[]),
            (&[&[1_000], &[500, -400, -200]], &[4]),
        ];
        for (commits, expected) in told {
            let moved = by_commit(&rows(account, commits), &account);
            let found: Vec<i64> = crossings(&moved, 1_000).map(|row| row.position).collect();
            assert_eq!(found, *expected, "{commits:?}");
        }
    }
}
