//! The journal checked as a whole, and its head kept outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::DisplayHex;
use bitcoin::secp256k1::schnorr::Signature;
use bitcoin::secp256k1::{Keypair, Message, Secp256k1, SecretKey, XOnlyPublicKey};
use serde::{Deserialize, Serialize};

use super::{ReportError, Reports};
use crate::Error;
use crate::access::Credential;
use crate::core::Answer;
use crate::ids::TransferId;
use crate::ledger::{
    Account, Balance, ChainHead, CommitRow, HoldChangeRow, JournalCheck, JournalProblem,
    TransferKind, TransferRow,
};
use crate::store::{MAX_PAGE, Store, StoreError};

/// The ends of all chains at one time, signed with a key of the host (BIP 340), to be kept where
/// whoever can write to the store cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHeads {
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// The ends of the chains.
    pub heads: Vec<ChainHead>,
    /// 128 hex digits.
    pub signature: String,
}

/// The host's key for [`SignedHeads`]. It is no secret of the engine's, and never comes near the
/// store.
pub struct HeadKey(Keypair);

impl HeadKey {
    /// Takes the 32 bytes of the secret key; `None` for the few that are none.
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        let key = SecretKey::from_slice(bytes).ok()?;
        Some(Self(Keypair::from_secret_key(
            &Secp256k1::signing_only(),
            &key,
        )))
    }

    /// What checks the signatures: 64 hex digits.
    pub fn public_key(&self) -> String {
        self.0
            .x_only_public_key()
            .0
            .serialize()
            .to_lower_hex_string()
    }
}

impl std::fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadKey(redacted)")
    }
}

impl SignedHeads {
    /// Signs.
    pub fn sign(at_ms: i64, heads: Vec<ChainHead>, key: &HeadKey) -> Self {
        let signature =
            Secp256k1::signing_only().sign_schnorr_no_aux_rand(&digest(at_ms, &heads), &key.0);
        Self {
            at_ms,
            heads,
            signature: signature.as_ref().to_lower_hex_string(),
        }
    }

    /// Checks the signature; `public_key` is 64 hex digits. Only what it answers is taken by
    /// [`Reports::verify_journal`].
    ///
    /// # Errors
    /// `report.bad_signature`.
    pub fn verify(&self, public_key: &str) -> Result<TrustedHeads, ReportError> {
        let bad = ReportError::BadSignature;
        let key: XOnlyPublicKey = public_key.parse().map_err(|_| bad.clone())?;
        let signature: Signature = self.signature.parse().map_err(|_| bad.clone())?;
        let digest = digest(self.at_ms, &self.heads);
        Secp256k1::verification_only()
            .verify_schnorr(&signature, &digest, &key)
            .map_err(|_| bad)?;
        Ok(TrustedHeads(self.heads.clone()))
    }
}

/// The ends of all chains as the host has signed them: there is no other way to one of these than
/// [`SignedHeads::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedHeads(Vec<ChainHead>);

impl TrustedHeads {
    /// The ends of the chains.
    pub fn heads(&self) -> &[ChainHead] {
        &self.0
    }
}

fn digest(at_ms: i64, heads: &[ChainHead]) -> Message {
    let mut text = format!("flashkit/heads/1\n{at_ms}\n");
    for head in heads {
        // Its length first, so that no name can look like another line.
        let ChainHead {
            writer,
            sequence,
            hash,
        } = head;
        text += &format!("{} {writer} {sequence} {hash}\n", writer.len());
    }
    Message::from_digest(sha256::Hash::hash(text.as_bytes()).to_byte_array())
}

/// What a check of the journal found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalVerdict {
    /// Nothing in honest books.
    pub problems: Vec<JournalProblem>,
    /// Accounts that moved at every look, and never had anything that they could not have had
    /// then: whether their totals are right to the unit is not known.
    pub unsettled: Vec<Account>,
    /// How many commits were read.
    pub commits: i64,
    /// The ends of the chains, to be signed and kept.
    pub heads: Vec<ChainHead>,
}

impl Reports {
    /// Reads the whole journal: recomputes every commit's hash, every balance after a transfer,
    /// every account's totals, what is left of each hold and what was undone of each transfer,
    /// and compares the chains with heads that were kept elsewhere: with every one of them, also
    /// with several of one chain. That nothing stands beside
    /// the journal that does not follow from it, and that the tables fit each other, is checked
    /// by [`StoreAdmin::verify`](crate::store::StoreAdmin::verify).
    /// Issuer only. It reads all there is, and everything else goes on meanwhile.
    ///
    /// # Errors
    /// `access.*`, `store.*`. That something is wrong with the books is no error: see the
    /// verdict.
    pub async fn verify_journal(
        &self,
        credential: &Credential,
        kept: &[TrustedHeads],
    ) -> Result<Answer<JournalVerdict>, Error> {
        self.core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let mut reader = JournalReader::new(self.core.store.as_ref());
        let kept: Vec<_> = kept.iter().flat_map(TrustedHeads::heads).cloned().collect();
        let mut check = JournalCheck::new(&kept);
        reader.read_on(&mut check).await?;
        let said = reader.said().await?;
        let mut suspects = check.accounts_that_differ(&reader.balances().await?);
        // One that moved before it was read may differ by this, and look right by it.
        suspects.extend(
            reader
                .read_on_and_watch(&mut check, i64::MAX)
                .await?
                .into_keys(),
        );
        suspects.sort_unstable();
        suspects.dedup();
        reader.compare(said, &mut check);
        let unsettled = reader.settle(&mut check, suspects).await?;
        let (problems, heads) = check.finish();
        let value = JournalVerdict {
            problems,
            unsettled,
            commits: reader.commits,
            heads,
        };
        Ok(Answer { as_of_ms, value })
    }
}

/// How often accounts are looked at again that move meanwhile.
const MAX_LOOKS: usize = 100;

/// What accounts had one after another, by the journal.
type Moved = BTreeMap<Account, Vec<Balance>>;

/// What the store says that follows from the journal, beside what was computed just before it
/// was asked.
#[derive(Default)]
struct Said {
    holds: Vec<(TransferId, i64, Option<i64>)>,
    reversed: Vec<(TransferId, i64, i64)>,
}

/// Reads commits with their rows, page by page.
struct JournalReader<'a> {
    store: &'a dyn Store,
    after: (i64, i64, i64),
    transfers: VecDeque<TransferRow>,
    hold_changes: VecDeque<HoldChangeRow>,
    /// What is left of each hold, and what was undone of each transfer of which something was.
    holds: BTreeMap<TransferId, i64>,
    reversed: BTreeMap<TransferId, i64>,
    /// What moved in the commits up to this one, while somebody watches.
    watched_until: i64,
    moved: Moved,
    commits: i64,
}

impl<'a> JournalReader<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            after: (0, 0, 0),
            transfers: VecDeque::new(),
            hold_changes: VecDeque::new(),
            holds: BTreeMap::new(),
            reversed: BTreeMap::new(),
            watched_until: 0,
            moved: Moved::new(),
            commits: 0,
        }
    }

    /// Feeds all commits that were not read yet. True when there were any.
    async fn read_on(&mut self, check: &mut JournalCheck) -> Result<bool, StoreError> {
        let mut any = false;
        loop {
            // Before the commits: what is there now was made by one of them.
            self.read_transfers().await?;
            self.read_hold_changes().await?;
            let page = self.store.commits(self.after.0, MAX_PAGE).await?;
            let Some(last) = page.last() else {
                self.drop_strays(check);
                return Ok(any);
            };
            any = true;
            self.after.0 = last.position;
            for commit in &page {
                self.feed(commit, check).await?;
            }
        }
    }

    /// As [`read_on`](Self::read_on); answers what each account that moved had after every commit
    /// up to `until`.
    async fn read_on_and_watch(
        &mut self,
        check: &mut JournalCheck,
        until: i64,
    ) -> Result<Moved, StoreError> {
        self.watched_until = until;
        self.read_on(check).await?;
        self.watched_until = 0;
        Ok(std::mem::take(&mut self.moved))
    }

    /// Compares each of the accounts with what was computed, however much is committed meanwhile:
    /// one is compared where nothing of it was. Answers those of which something always was, and
    /// which never showed what they did not have then.
    async fn settle(
        &mut self,
        check: &mut JournalCheck,
        mut suspects: Vec<Account>,
    ) -> Result<Vec<Account>, StoreError> {
        // What stood there of one that moved, and was nothing of what it had meanwhile.
        let mut wrong: BTreeMap<Account, (Balance, Balance)> = BTreeMap::new();
        for _ in 0..MAX_LOOKS {
            if suspects.is_empty() {
                break;
            }
            let mut looks = Vec::new();
            for account in suspects.drain(..) {
                let stored = self.store.balance(&account).await?;
                looks.push((account, stored, check.computed(&account)));
            }
            let until = self.last_commit().await?;
            let moved = self.read_on_and_watch(check, until).await?;
            for (account, stored, computed) in looks {
                let Some(later) = moved.get(&account) else {
                    wrong.remove(&account);
                    if stored != computed {
                        check.found(totals_wrong(account, stored, computed));
                    }
                    continue;
                };
                if stored != computed && !later.contains(&stored) {
                    let last = later.last().copied().unwrap_or(computed);
                    wrong.insert(account, (stored, last));
                }
                suspects.push(account);
            }
        }
        suspects.retain(|account| !wrong.contains_key(account));
        for (account, (stored, computed)) in wrong {
            check.found(totals_wrong(account, stored, computed));
        }
        Ok(suspects)
    }

    /// The last commit there is now, or one after it: what is made later is not in what was read.
    async fn last_commit(&self) -> Result<i64, StoreError> {
        let page = self.store.commits(self.after.0, MAX_PAGE).await?;
        Ok(match page.last() {
            Some(_) if page.len() >= MAX_PAGE => i64::MAX,
            Some(last) => last.position,
            None => self.after.0,
        })
    }

    async fn feed(
        &mut self,
        commit: &CommitRow,
        check: &mut JournalCheck,
    ) -> Result<(), StoreError> {
        let (mut transfers, mut hold_changes) = (Vec::new(), Vec::new());
        while let Some(row) = self.next_transfer(commit.position).await? {
            if row.commit == commit.position {
                transfers.push(row);
            } else {
                check.stray(row.commit);
            }
        }
        while let Some(row) = self.next_hold_change(commit.position).await? {
            if row.commit == commit.position {
                hold_changes.push(row);
            } else {
                check.stray(row.commit);
            }
        }
        for row in &transfers {
            if let (TransferKind::Reversal, Some(of)) = (row.kind, row.follows) {
                let sum = self.reversed.entry(of).or_default();
                *sum = sum.saturating_add(row.amount);
            }
        }
        for row in &hold_changes {
            self.holds.insert(row.hold.transfer.id, row.remaining);
        }
        check.commit(commit, &transfers, &hold_changes);
        if commit.position <= self.watched_until {
            self.note_moved(check, &transfers, &hold_changes);
        }
        self.commits = self.commits.saturating_add(1);
        Ok(())
    }

    fn note_moved(
        &mut self,
        check: &JournalCheck,
        transfers: &[TransferRow],
        hold_changes: &[HoldChangeRow],
    ) {
        let transfers = transfers.iter().map(|row| [row.debit, row.credit]);
        let holds = hold_changes.iter().map(|row| &row.hold.transfer);
        let held = holds.map(|transfer| [transfer.debit, transfer.credit]);
        let accounts: BTreeSet<Account> = transfers.chain(held).flatten().collect();
        for account in accounts {
            let computed = check.computed(&account);
            self.moved.entry(account).or_default().push(computed);
        }
    }

    /// The next transfer of a commit up to and with `commit`.
    async fn next_transfer(&mut self, commit: i64) -> Result<Option<TransferRow>, StoreError> {
        self.read_transfers().await?;
        let is_next = self
            .transfers
            .front()
            .is_some_and(|row| row.commit <= commit);
        Ok(is_next.then(|| self.transfers.pop_front()).flatten())
    }

    async fn next_hold_change(&mut self, commit: i64) -> Result<Option<HoldChangeRow>, StoreError> {
        self.read_hold_changes().await?;
        let is_next = self
            .hold_changes
            .front()
            .is_some_and(|row| row.commit <= commit);
        Ok(is_next.then(|| self.hold_changes.pop_front()).flatten())
    }

    async fn read_transfers(&mut self) -> Result<(), StoreError> {
        if self.transfers.is_empty() {
            let page = self.store.journal(self.after.1, MAX_PAGE).await?;
            self.after.1 = page.last().map_or(self.after.1, |row| row.position);
            self.transfers.extend(page);
        }
        Ok(())
    }

    async fn read_hold_changes(&mut self) -> Result<(), StoreError> {
        if self.hold_changes.is_empty() {
            let page = self.store.hold_changes(self.after.2, MAX_PAGE).await?;
            self.after.2 = page.last().map_or(self.after.2, |row| row.position);
            self.hold_changes.extend(page);
        }
        Ok(())
    }

    /// Rows that are left when there are no more commits.
    fn drop_strays(&mut self, check: &mut JournalCheck) {
        let transfers = self.transfers.drain(..).map(|row| row.commit);
        let hold_changes = self.hold_changes.drain(..).map(|row| row.commit);
        let mut commits: Vec<i64> = transfers.chain(hold_changes).collect();
        commits.sort_unstable();
        commits.dedup();
        for commit in commits {
            check.stray(commit);
        }
    }

    async fn said(&self) -> Result<Said, StoreError> {
        let mut said = Said::default();
        for page in pages(&self.holds) {
            let stored = self.store.holds_left(&ids(&page)).await?;
            let page = page.into_iter().zip(stored);
            said.holds
                .extend(page.map(|((id, left), stored)| (id, left, stored)));
        }
        for page in pages(&self.reversed) {
            let stored = self.store.all_reversed(&ids(&page)).await?;
            let page = page.into_iter().zip(stored);
            said.reversed
                .extend(page.map(|((id, sum), stored)| (id, sum, stored)));
        }
        Ok(said)
    }

    /// What is left of a hold never grows, and what was undone never shrinks: what the store said
    /// is between what was computed before and what is computed now.
    fn compare(&self, said: Said, check: &mut JournalCheck) {
        for (hold, before, stored) in said.holds {
            let computed = self.holds.get(&hold).copied().unwrap_or_default();
            if stored.is_none_or(|stored| !(computed..=before).contains(&stored)) {
                check.found(JournalProblem::HoldWrong {
                    hold,
                    stored,
                    computed,
                });
            }
        }
        for (transfer, before, stored) in said.reversed {
            let computed = self.reversed.get(&transfer).copied().unwrap_or_default();
            if !(before..=computed).contains(&stored) {
                check.found(JournalProblem::ReversedWrong {
                    transfer,
                    stored,
                    computed,
                });
            }
        }
    }

    async fn balances(&self) -> Result<Vec<(Account, Balance)>, StoreError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.balances(after, MAX_PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(all);
            };
            after = Some(*last);
            all.extend(page);
        }
    }
}

/// As many at a time as a store is asked for.
fn pages(all: &BTreeMap<TransferId, i64>) -> impl Iterator<Item = Vec<(TransferId, i64)>> {
    let mut rest = all.iter().map(|(id, amount)| (*id, *amount));
    std::iter::from_fn(move || {
        let page: Vec<_> = rest.by_ref().take(MAX_PAGE).collect();
        (!page.is_empty()).then_some(page)
    })
}

fn ids(page: &[(TransferId, i64)]) -> Vec<TransferId> {
    page.iter().map(|(id, _)| *id).collect()
}

fn totals_wrong(account: Account, stored: Balance, computed: Balance) -> JournalProblem {
    JournalProblem::TotalsWrong {
        account,
        stored,
        computed,
    }
}
