//! Watching: what the scripts of all wallets receive, in rounds of bounded work.
//!
//! A source with an index by script is asked for a page of scripts a round: those that wait for a
//! payment in every round (a page of them, in turn), all others more rarely. A source that reads
//! blocks gets all scripts, and a number of blocks a round, from where the last round ended: a
//! cursor in the books. Every round may be cut off anywhere: it is told and written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{OutPoint, ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::addresses::HOT_MS;
use super::looking::{inherits, inputs_of, known_since, look, read_through, since, spending};
use super::model::{Coin, Keychain, WalletAddress, WatchRound};
use super::problems::Problems;
use super::rules::{self, Change};
use super::{ADDRESSES, COINS, TRANSACTIONS, Wallets};
use crate::Error;
use crate::access::Credential;
use crate::chain::{
    BlockId, ChainError, ChainSource, KnownTransaction, Standing, View, WATCH_JOB, Watch,
    confirmations,
};
use crate::core::{Loaded, SeenTip, put, unreadable};
use crate::invoices::{OnChainFact, OnChainPlace};
use crate::ledger::{DueJob, Step};
use crate::store::{DocumentPosition, DocumentQuery, MAX_PAGE, StoreError};

const CURSOR: &str = "chain_cursor";
/// Scripts that wait for a payment, asked for in one round.
const HOT: usize = 300;
/// All others, asked for in one round.
const COLD: usize = 30;

/// How far the chain was read, and which scripts were asked for last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) through: Option<BlockId>,
    pub(super) hot_after: Option<String>,
    pub(super) cold_after: Option<String>,
}

/// What one round looks at: first what waits for a payment.
pub(super) struct Page {
    pub(super) addresses: Vec<WalletAddress>,
    /// How many of them wait for a payment.
    pub(super) hot: usize,
    pub(super) coins: Vec<(Coin, KnownTransaction)>,
    pub(super) cursor: Cursor,
}

impl Wallets {
    /// Looks at the chain once, now: for a host that cannot wait for the job that does it, after
    /// it heard of a block for example. Issuer only.
    ///
    /// # Errors
    /// `chain.*`, `store.*`, `access.*`.
    pub async fn look_now(&self, credential: &Credential) -> Result<WatchRound, Error> {
        let (wallets, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = wallets.core.authenticate(&credential).await?;
                caller.require_issuer()?;
                wallets.round().await
            })
            .await
    }

    /// The steps that have the chain watched from now on.
    pub(super) async fn begin_watching(
        &self,
        birthday_height: Option<u32>,
    ) -> Result<Vec<Step>, Error> {
        let mut steps = vec![self.again(0)];
        if let Ok(source) = self.core.chain() {
            match self.begin_at(&**source, birthday_height).await {
                Ok(begun) => steps.extend(begun),
                // One with an index by script misses nothing.
                Err(Error::Chain(_)) if !source.reads_blocks() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(steps)
    }

    /// What arrives before the first round would be missed by a source that reads blocks; and blocks
    /// before the cursor are read again where the wallet is older than that.
    async fn begin_at(
        &self,
        source: &dyn ChainSource,
        birthday_height: Option<u32>,
    ) -> Result<Option<Step>, Error> {
        let cursor = self.cursor().await?;
        let from = match (birthday_height, cursor.value.through) {
            (Some(height), Some(through)) if height < through.height => height,
            (_, Some(_)) => return Ok(None),
            (Some(height), None) => height,
            (None, None) => u32::MAX,
        };
        let height = from.min(source.tip().await?.height);
        let hash = source.block_hash(height).await?.ok_or(ChainError::Moved)?;
        let after = Cursor {
            through: Some(BlockId { height, hash }),
            ..cursor.value
        };
        write_cursor(&after, cursor.version).map(Some)
    }

    /// After a start: what is watched is looked at now. A clock that was ahead when the next round
    /// was set would have put it off until then.
    pub(crate) async fn go_on_watching(&self) -> Result<(), Error> {
        self.claim_chains().await?;
        let is_watched = self.core.chain.is_some() && self.cursor().await?.version > 0;
        if is_watched {
            self.core.commit(vec![self.again(0)]).await?;
        }
        Ok(())
    }

    fn again(&self, wait_ms: i64) -> Step {
        Step::Due(DueJob {
            kind: WATCH_JOB.to_owned(),
            object: self.core.network.clone(),
            due_at_ms: self.core.clock.now_ms().saturating_add(wait_ms),
        })
    }

    /// The job: a round, and the time of the next one. Set before the round, so that one that
    /// fails is no end of it.
    pub(crate) async fn watch(&self) -> Result<(), Error> {
        let wait_ms = self.core.settings.chain_poll_ms;
        self.core.commit(vec![self.again(wait_ms)]).await?;
        let round = self.round().await?;
        if !round.is_complete {
            self.core.commit(vec![self.again(0)]).await?;
        }
        Ok(())
    }

    async fn round(&self) -> Result<WatchRound, Error> {
        let source = self.core.chain()?.clone();
        let before = self.cursor().await?;
        // Before the scripts are read: see `read_through`.
        let begun = source.tip().await?;
        let mut page = self.page(&source, &before.value).await?;
        let watch = self.watch_of(&source, &page).await?;
        let view = look(&*source, &watch).await?;
        let at = self.seen_tip(&*source, view.tip).await?;
        let mut problems = Problems::of(&view, &mut page, &before.value);
        let mut round = WatchRound {
            scripts: page.addresses.len(),
            is_complete: view.is_complete(),
            left_out: view.missed.unasked.len(),
            ..WatchRound::default()
        };
        let spends = rules::known_spends(&watch.known, &view);
        let mut coins = by_script(&page.coins);
        let mut is_written = true;
        for address in &page.addresses {
            let known = coins.remove(address.script.as_str()).unwrap_or_default();
            let now_ms = self.core.clock.now_ms();
            for change in rules::observe(address, &known, &spends, &view, now_ms) {
                // One that cannot be told or written does not keep the others waiting.
                match self.changed(&*source, address, change, (&view, at)).await {
                    Ok(None) => round.changed += 1,
                    Ok(Some(untold)) => problems.add(address, &untold),
                    Err(error) => {
                        // All that is left is of an older view.
                        self.core.still_at(at).await?;
                        is_written = false;
                        problems.add(address, &error);
                    }
                }
            }
        }
        round.problems = problems.told(&self.core, &page.addresses);
        // Last: a round that was cut off is made again. A source that reads blocks does not come by
        // there again: what was not written keeps it there.
        let through = match is_written || !source.reads_blocks() {
            true => read_through(&*source, begun, view.through).await?,
            false => None,
        };
        let after = Cursor {
            through: through.or(before.value.through),
            ..page.cursor
        };
        if after != before.value {
            let step = write_cursor(&after, before.version)?;
            match self.core.commit(vec![step]).await {
                // Another round was quicker: it has told the same.
                Err(Error::Ledger(refusal)) if refusal.should_decide_again() => {}
                other => drop(other?),
            }
        }
        Ok(round)
    }

    pub(super) async fn cursor(&self) -> Result<Loaded<Cursor>, Error> {
        let found = self.core.load(CURSOR, CURSOR).await?;
        Ok(found.unwrap_or(Loaded {
            version: 0,
            value: Cursor::default(),
        }))
    }

    async fn page(&self, source: &Arc<dyn ChainSource>, cursor: &Cursor) -> Result<Page, Error> {
        if source.reads_blocks() {
            return self.everything(cursor).await;
        }
        let mut cursor = cursor.clone();
        let (mut addresses, hot_after) = self.part("hot", cursor.hot_after, HOT).await?;
        let hot = addresses.len();
        let (cold, cold_after) = self.part("cold", cursor.cold_after, COLD).await?;
        addresses.extend(cold);
        (cursor.hot_after, cursor.cold_after) = (hot_after, cold_after);
        self.cool(&addresses).await?;
        let mut coins = Vec::new();
        for address in &addresses {
            coins.extend(self.coins_under("script", &address.script).await?);
        }
        Ok(Page {
            addresses,
            hot,
            coins,
            cursor,
        })
    }

    async fn everything(&self, cursor: &Cursor) -> Result<Page, Error> {
        let mut addresses = Vec::new();
        for heat in ["hot", "cold"] {
            let mut after = None;
            loop {
                let (page, next) = self.part(heat, after, MAX_PAGE).await?;
                addresses.extend(page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(Page {
            addresses,
            hot: 0,
            coins: self.coins_under("live", "live").await?,
            cursor: cursor.clone(),
        })
    }

    /// A part of the scripts in turn, and where the next one begins: `None` at the end.
    async fn part(
        &self,
        heat: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<WalletAddress>, Option<String>), Error> {
        let page: Vec<WalletAddress> = self
            .core
            .list(ADDRESSES, "watch", heat, after, limit)
            .await?;
        let is_full = page.len() == limit;
        let last = page.last().map(|address| address.script.clone());
        Ok((page, last.filter(|_| is_full)))
    }

    /// What nobody waits for any more is looked at more rarely.
    async fn cool(&self, addresses: &[WalletAddress]) -> Result<(), Error> {
        let now_ms = self.core.clock.now_ms();
        for address in addresses {
            let until = address.hot_until_ms;
            if until == 0 || until > now_ms {
                continue;
            }
            let coins = self.coins_under("script", &address.script).await?;
            let is_young = |(coin, _): &(Coin, KnownTransaction)| {
                let is_gone = matches!(coin.standing, Standing::Gone { .. });
                coin.confirmations < rules::FINAL && !is_gone
            };
            if coins.iter().any(is_young) {
                continue;
            }
            self.core
                .settle(|| async move {
                    let found: Option<Loaded<WalletAddress>> =
                        self.core.load(ADDRESSES, &address.script).await?;
                    let Some(found) = found else { return Ok(None) };
                    let after = WalletAddress {
                        hot_until_ms: 0,
                        ..found.value
                    };
                    Ok(Some(vec![rules::write_address(
                        &after,
                        found.version,
                        now_ms,
                    )?]))
                })
                .await?;
        }
        Ok(())
    }

    async fn coins_under(
        &self,
        index: &'static str,
        key: &str,
    ) -> Result<Vec<(Coin, KnownTransaction)>, Error> {
        let (mut after, mut coins): (Option<DocumentPosition>, _) = (None, Vec::new());
        loop {
            let query = DocumentQuery {
                after,
                ..DocumentQuery::under(COINS, index, key, MAX_PAGE)
            };
            let page = self.core.store.documents(query).await?;
            let Some((last, _)) = page.last() else {
                return Ok(coins);
            };
            after = Some(last.clone());
            for (_, document) in page {
                let coin: Coin = document.body.read().map_err(unreadable)?;
                let known = self.known(&coin).await?;
                coins.push((coin, known));
            }
        }
    }

    async fn known(&self, coin: &Coin) -> Result<KnownTransaction, Error> {
        let OutPoint { txid, .. } = outpoint(coin)?;
        let block = match coin.standing {
            Standing::Confirmed { block } => Some(block),
            _ => None,
        };
        // What it spends matters only as long as another one can spend the same.
        let inputs = if coin.confirmations < rules::FINAL {
            inputs_of(&self.core.wallet_transaction(txid).await?)
        } else {
            Vec::new()
        };
        Ok(KnownTransaction {
            txid,
            inputs,
            block,
        })
    }

    async fn watch_of(&self, source: &Arc<dyn ChainSource>, page: &Page) -> Result<Watch, Error> {
        let scripts = page
            .addresses
            .iter()
            .map(|address| ScriptBuf::from_hex(&address.script).map_err(|_| corrupt("a script")));
        let mut known: BTreeMap<Txid, KnownTransaction> = BTreeMap::new();
        let mut coins = Vec::new();
        for (coin, transaction) in &page.coins {
            known.insert(transaction.txid, transaction.clone());
            coins.push(outpoint(coin)?);
            // So may what took the place of what paid it.
            if let Standing::Gone { rival: Some(rival) } = &coin.standing
                && let Some(txid) = rival.id()
            {
                known.entry(txid).or_insert(KnownTransaction {
                    txid,
                    inputs: transaction.inputs.clone(),
                    block: rival.block,
                });
            }
            // What spends a coin may be reorged away like what paid it.
            if let Some(by) = &coin.spent_by
                && let Ok(txid) = by.txid.parse()
            {
                // It may spend others of ours as well.
                let inputs = match self.core.kept_transaction(txid).await? {
                    Some(kept) => inputs_of(&kept),
                    None => vec![outpoint(coin)?],
                };
                known.entry(txid).or_insert(KnownTransaction {
                    txid,
                    inputs,
                    block: by.block,
                });
            }
        }
        Ok(Watch {
            scripts: scripts.collect::<Result<_, Error>>()?,
            coins,
            known: known.into_values().collect(),
            since: since(&**source, page.cursor.through).await?,
        })
    }

    /// Tells the invoices, then writes it down: cut off in between, it is told again, which
    /// changes nothing. Answers why it could not be told, where that is so: it is written down that
    /// it is to be told again.
    async fn changed(
        &self,
        source: &dyn ChainSource,
        address: &WalletAddress,
        mut change: Change,
        (view, at): (&View, SeenTip),
    ) -> Result<Option<Error>, Error> {
        if let Some(transaction) = &change.new {
            let since_ms = known_since(source, &change.coin).await?;
            let wallet = self.load(address.wallet).await?.value;
            let coin = &mut change.coin;
            coin.first_seen_ms = coin.first_seen_ms.min(since_ms);
            coin.predates = rules::predates(&wallet, coin);
            // Only an invoice may be settled by what waits.
            if coin.standing == Standing::Waiting && address.invoice.is_some() {
                coin.replaceable = coin.replaceable || inherits(source, transaction).await;
            }
        }
        let problem = self.tell(address, &change.coin, (view, at)).await.err();
        change.coin.untold = problem.is_some();
        let change = &change;
        self.core
            .settle(|| async move {
                let still = self.core.still_at(at).await?;
                let found: Option<Loaded<Coin>> =
                    self.core.load(COINS, &change.coin.outpoint).await?;
                let version = found.as_ref().map_or(0, |found| found.version);
                let mut change = change.clone();
                let before = found.as_ref().map(|found| found.value.clone());
                if let Some(found) = found {
                    // What is ours to say is not the chain's to change.
                    change.coin.reserved_by = found.value.reserved_by;
                    change.coin.label.clone_from(&found.value.label);
                    if found.value == change.coin {
                        return Ok(None);
                    }
                    if change.new.take().is_some() {
                        change.facts.clear();
                    }
                }
                let followed = self
                    .follow_spends(before.as_ref(), &mut change.coin, view)
                    .await?;
                let mut steps = rules::write(&change, version)?;
                let spending = spending(&change.coin, view);
                for transaction in change.new.iter().chain(spending) {
                    let txid = transaction.compute_txid();
                    if self.core.kept_transaction(txid).await?.is_none() {
                        steps.push(rules::keep(transaction, 0)?);
                    }
                }
                if change.new.is_some() {
                    steps.extend(self.mark_used(&change.coin).await?);
                }
                steps.extend(followed);
                steps.push(still);
                Ok(Some(steps))
            })
            .await?;
        Ok(problem)
    }

    /// An address that received something, or whose coins are being spent, is looked at often for
    /// a while.
    pub(super) async fn mark_used(&self, coin: &Coin) -> Result<Option<Step>, Error> {
        let found: Option<Loaded<WalletAddress>> = self.core.load(ADDRESSES, &coin.script).await?;
        let Some(found) = found else { return Ok(None) };
        let now_ms = self.core.clock.now_ms();
        let after = WalletAddress {
            is_used: true,
            hot_until_ms: found.value.hot_until_ms.max(now_ms.saturating_add(HOT_MS)),
            ..found.value
        };
        rules::write_address(&after, found.version, now_ms).map(Some)
    }

    async fn tell(
        &self,
        address: &WalletAddress,
        coin: &Coin,
        (view, at): (&View, SeenTip),
    ) -> Result<(), Error> {
        // A merchant's own money that is no invoice's is none of ours, nor is what the operator had
        // before; and change is no receipt.
        let wallet = self.load(coin.wallet).await?.value;
        let is_operators = wallet.owner == super::WalletOwner::Operator;
        let concerns = address.invoice.is_some() || (is_operators && !coin.predates);
        if coin.keychain == Keychain::Change || !concerns {
            return Ok(());
        }
        let place = match &coin.standing {
            Standing::Waiting => OnChainPlace::Mempool {
                replaceable: coin.replaceable,
            },
            Standing::Confirmed { block } => OnChainPlace::Block {
                height: block.height,
                hash: block.hash.to_string(),
                confirmations: confirmations(&coin.standing, view.tip).unwrap_or(1),
            },
            Standing::Gone { rival } => OnChainPlace::Gone {
                replaced_by: rival.as_ref().map(|rival| rival.txid.clone()),
            },
        };
        let fact = OnChainFact {
            outpoint: coin.outpoint.parse().map_err(|_| corrupt("an outpoint"))?,
            amount_sat: i64::try_from(coin.amount_sat).unwrap_or(i64::MAX),
            first_known_ms: coin.first_seen_ms,
            place,
        };
        let told = self.invoices.seen_on_chain(&coin.address, &fact, Some(at));
        told.await.map(drop)
    }
}

fn by_script(coins: &[(Coin, KnownTransaction)]) -> BTreeMap<&str, Vec<(Coin, KnownTransaction)>> {
    let mut by_script: BTreeMap<&str, Vec<(Coin, KnownTransaction)>> = BTreeMap::new();
    for (coin, known) in coins {
        let of = by_script.entry(coin.script.as_str()).or_default();
        of.push((coin.clone(), known.clone()));
    }
    by_script
}

fn outpoint(coin: &Coin) -> Result<OutPoint, Error> {
    let parsed = coin.outpoint.parse();
    parsed.map_err(|_| corrupt("an outpoint"))
}

fn write_cursor(cursor: &Cursor, read_version: i64) -> Result<Step, Error> {
    put(CURSOR, CURSOR.to_owned(), read_version, cursor, Vec::new())
}

pub(super) fn corrupt(what: &str) -> Error {
    StoreError::Corrupt {
        reason: format!("{what} of a wallet cannot be read"),
    }
    .into()
}

impl crate::core::Core {
    /// A transaction that pays to a wallet or spends of it, once it was seen.
    async fn kept_transaction(&self, txid: Txid) -> Result<Option<Transaction>, Error> {
        let found: Option<Loaded<String>> = self.load(TRANSACTIONS, &txid.to_string()).await?;
        let read = |found: Loaded<String>| deserialize_hex(&found.value);
        let read = found.map(read).transpose();
        read.map_err(|_| corrupt("a transaction"))
    }

    pub(super) async fn wallet_transaction(&self, txid: Txid) -> Result<Transaction, Error> {
        let found = self.kept_transaction(txid).await?;
        found.ok_or_else(|| corrupt("a transaction"))
    }
}
