//! Cards of another issuer come over without being written again.
//!
//! First a dry run ([`CardImports::check`]) says what would come over, and why what not. Then the
//! old issuer is frozen, and the cards are taken over ([`CardImports::cut_over`]): each with its
//! balance, booked from the account of the former issuer, once for ever, because a chip can be
//! claimed once. It goes in pieces of a commit each; after a crash the same call does the rest.
//! What the old issuer has taken between its last export and its end shows in a counter sync.
//!
//! [`CardImports::roll_back`] is the way back: cards stop here, what is on them is the former
//! issuer's again, and the answer is the rows for it to go on with. They can come over a second
//! time; a single card whose balance at the old issuer was another in the end is put right so.

mod counters;
mod model;
mod roll_back;
mod rules;
mod went_back;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::life::{current, look_then, valid_from};
use super::model::{Card, CardState};
use super::programs::CardProgram;
use super::{CARDS, CardError, Cards, programs, rules as card_rules};
use crate::Error;
use crate::access::{Credential, Role};
use crate::core::{
    Answer, Caller, CommandError, Core, Decision, Executed, IdempotencyKey, Loaded, check_text,
    emit, put,
};
use crate::ids::{CardId, CardImportId, CredentialId, TransferId};
use crate::ledger::{Account, NewTransfer, Refusal, Step, TransferKind};
use crate::money::Asset;

pub use model::{
    CardCounter, CardImport, CounterReport, CreateCardImport, CutOver, ExportedCard, ImportReport,
    ImportedCard, KeptCard, KeptReason, MovedCounter, RefusedRow, RollBack, RollBackReport,
    RowRefusal, SyncCounters,
};

const IMPORTS: &str = "card_import";
/// So many rows make one commit.
const PIECE: usize = 200;
/// So many rows can be given at once.
const MOST_ROWS: usize = 1_000_000;
/// How often a piece is decided again when taps or other imports were quicker.
const MAX_TRIES: usize = 8;

/// The handle for cards that come over from another issuer.
#[derive(Clone)]
pub struct CardImports {
    cards: Cards,
    core: Arc<Core>,
}

impl CardImports {
    pub(super) fn new(cards: Cards) -> Self {
        let core = cards.core.clone();
        Self { cards, core }
    }

    /// Begins an import. Nothing comes over yet. Issuer only.
    ///
    /// # Errors
    /// `card.issuer_key_missing`, `card.program_not_found`, `card.unknown_time_zone`,
    /// `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn create(
        &self,
        credential: &Credential,
        command: CreateCardImport,
    ) -> Result<Answer<CardImport>, Error> {
        let (imports, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &imports.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                check_text("name", &command.name, 100, "100 characters")?;
                card_rules::check_limits(&command.limits)?;
                let decide = || imports.decide_create(&command);
                let operation = "card_imports.create";
                let executed: Executed<CardImport> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_create(
        &self,
        command: &CreateCardImport,
    ) -> Result<Decision<CardImport>, Error> {
        let core = &self.core;
        self.cards.issuer_keys.refresh(core).await?;
        self.cards.require_issuer_key(command.issuer_key)?;
        let mut limits = command.limits.clone();
        let mut steps = Vec::new();
        if let Some(program) = command.program {
            let program = programs::load(core, program).await?;
            if program.value.terms.unit != Asset::Btc {
                let (field, bounds) = ("program", "one whose unit is bitcoin");
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
            limits = programs::terms_of_a_new_card(Some(&program), &limits).limits;
            steps.push(programs::guard(&program));
        }
        let answer = CardImport {
            id: core.new_id(CardImportId::from_parts)?,
            name: command.name.clone(),
            issuer_key: command.issuer_key,
            limits,
            program: command.program,
            cards: 0,
            balance_msat: 0,
            returned: 0,
            returned_msat: 0,
            created_at_ms: core.clock.now_ms(),
        };
        steps.push(write(&answer, 0)?);
        steps.push(emit("card_import.created", answer.id.to_string(), &answer)?);
        Ok(Decision { steps, answer })
    }

    /// An import as it stands. Issuer only.
    ///
    /// # Errors
    /// `card.import_not_found`, `access.*`.
    pub async fn get(
        &self,
        credential: &Credential,
        import: CardImportId,
    ) -> Result<Answer<CardImport>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = self.core.clock.now_ms();
        let value = load(&self.core, import).await?.value;
        Ok(Answer { as_of_ms, value })
    }

    /// The dry run: what would come over, and why what not. Changes nothing. Issuer only.
    ///
    /// # Errors
    /// `card.import_not_found`, `card.issuer_key_missing`, `command.out_of_bounds` above 1,000,000
    /// rows, `access.*`.
    pub async fn check(
        &self,
        credential: &Credential,
        import: CardImportId,
        rows: &[ImportedCard],
    ) -> Result<Answer<ImportReport>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer()?;
        check_rows(rows.len())?;
        let as_of_ms = self.core.clock.now_ms();
        let import = load(&self.core, import).await?.value;
        let chips = self.chips(&import, rows).await?;
        let mut report = ImportReport::default();
        for (place, (row, chip)) in rows.iter().zip(&chips).enumerate() {
            let outcome = self.free(chip).await?;
            report.count(place, row, outcome.map(drop));
        }
        Ok(Answer {
            as_of_ms,
            value: report,
        })
    }

    /// Takes cards over: those that [`check`](Self::check) would. They can pay at once, and their
    /// holders get a credential with [`Cards::renew_holder`]. Issuer only.
    ///
    /// # Errors
    /// `card.old_issuer_not_frozen`, those of [`check`](Self::check), `command.*`. What of it came
    /// over before an error stays; the same call again does the rest.
    pub async fn cut_over(
        &self,
        credential: &Credential,
        command: CutOver,
    ) -> Result<Answer<ImportReport>, Error> {
        let (imports, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &imports.core;
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                if !command.old_issuer_is_frozen {
                    return Err(CardError::OldIssuerNotFrozen.into());
                }
                check_rows(command.cards.len())?;
                let import = load(core, command.import).await?.value;
                let chips = imports.chips(&import, &command.cards).await?;
                let mut report = Answer {
                    as_of_ms: core.clock.now_ms(),
                    value: ImportReport::default(),
                };
                for first in (0..command.cards.len()).step_by(PIECE) {
                    let last = command.cards.len().min(first + PIECE);
                    let (Some(rows), Some(chips)) =
                        (command.cards.get(first..last), chips.get(first..last))
                    else {
                        break;
                    };
                    let piece = Piece { first, rows, chips };
                    let decide = || imports.decide_piece(command.import, &piece);
                    let asked = (command.import, first, rows);
                    let done: Executed<ImportReport> = imports
                        .piece(&caller, "cut_over", &command.key, first, &asked, decide)
                        .await?;
                    report.as_of_ms = done.answer.as_of_ms;
                    report.value.add(done.answer.value);
                }
                Ok(report)
            })
            .await
    }

    /// One piece of a longer call, under a key of its own.
    async fn piece<C, A, F, Fut>(
        &self,
        caller: &Caller,
        what: &str,
        key: &IdempotencyKey,
        first: usize,
        asked: &C,
        decide: F,
    ) -> Result<Executed<A>, Error>
    where
        C: Serialize,
        A: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decision<A>, Error>>,
    {
        let operation = match what {
            "cut_over" => "card_imports.cut_over",
            _ => "card_imports.sync_counters",
        };
        let key: IdempotencyKey = format!("{key}/{first}").parse()?;
        let mut tries = 1;
        loop {
            let done = self
                .core
                .execute(caller, operation, &key, asked, &decide)
                .await;
            match done {
                // A tap or another import was quicker: what it has changed is seen now.
                Err(Error::Ledger(
                    Refusal::AlreadyClaimed { .. } | Refusal::CounterNotAdvanced { .. },
                )) if tries < MAX_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn chips(
        &self,
        import: &CardImport,
        rows: &[ImportedCard],
    ) -> Result<Vec<Result<String, RowRefusal>>, Error> {
        self.cards.issuer_keys.refresh(&self.core).await?;
        let state = self.cards.issuer_keys.state();
        let issuer_key = import.issuer_key;
        let missing = CardError::IssuerKeyMissing { issuer_key };
        let key = state.ring.key(issuer_key).ok_or(missing)?;
        Ok(rules::chips(rows, key))
    }

    /// The chip, where nobody has it; the former issuer may have it again.
    async fn free(
        &self,
        chip: &Result<String, RowRefusal>,
    ) -> Result<Result<Free, RowRefusal>, Error> {
        let chip = match chip {
            Ok(chip) => chip.clone(),
            Err(refusal) => return Ok(Err(refusal.clone())),
        };
        let Some(card) = self.core.store.claim(&chip_claim(&chip)).await? else {
            return Ok(Ok(Free { chip, before: None }));
        };
        let before = match card.parse() {
            Ok(id) => Some(current(&self.core, id).await?),
            Err(_) => None,
        };
        let before = before.filter(|last| last.value.is_with_former_issuer());
        Ok(match before {
            Some(last) => Ok(Free {
                chip,
                before: Some(last),
            }),
            None => Err(RowRefusal::AlreadyIssued { card }),
        })
    }

    async fn decide_piece(
        &self,
        import: CardImportId,
        piece: &Piece<'_>,
    ) -> Result<Decision<ImportReport>, Error> {
        let import = load(&self.core, import).await?;
        let (mut after, mut steps) = (import.value.clone(), Vec::new());
        let program = match after.program {
            Some(program) => Some(programs::load(&self.core, program).await?),
            None => None,
        };
        steps.extend(program.as_ref().map(programs::guard));
        let mut report = ImportReport::default();
        for (offset, (row, chip)) in piece.rows.iter().zip(piece.chips).enumerate() {
            let place = piece.first + offset;
            match self.free(chip).await? {
                Ok(free) => {
                    let taken = self.take_over(&import.value, program.as_ref(), row, free);
                    steps.extend(taken.await?);
                    after.cards += 1;
                    after.balance_msat = after.balance_msat.saturating_add(row.balance_msat);
                    report.count(place, row, Ok(()));
                }
                Err(refusal) => report.count(place, row, Err(refusal)),
            }
        }
        steps.insert(0, write(&after, import.version)?);
        let id = after.id.to_string();
        steps.push(emit("card_import.cut_over", id, &after)?);
        Ok(Decision {
            steps,
            answer: report,
        })
    }

    /// The steps that make a card of a row.
    async fn take_over(
        &self,
        import: &CardImport,
        program: Option<&Loaded<CardProgram>>,
        row: &ImportedCard,
        free: Free,
    ) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let holder = core.new_id(CredentialId::from_parts)?;
        let claim = free.claim();
        let own = program.filter(|program| program.value.terms.limits != import.limits);
        let card = Card {
            chip: free.chip,
            version: row.version,
            pull_payment_id: row.pull_payment_id.clone(),
            state: CardState::Active,
            limits: import.limits.clone(),
            issued_with: own.map(|_| import.limits.clone()),
            created_at_ms: core.clock.now_ms(),
            holder: Some(holder),
            program: import.program,
            issuer_key: Some(import.issuer_key),
            import: Some(import.id),
            ..Card::blank(core.new_id(CardId::from_parts)?)
        };
        let card = valid_from(card, program, core.commit_time_ms());
        let mut used = Some(row.counter).filter(|used| *used > 0);
        let (mut card, mut before) = (card, Vec::new());
        if let Some(last) = &free.before {
            let paid = self.used_of(&last.value).await?;
            if last.value.version == row.version {
                used = used.max(Some(paid).filter(|paid| *paid > 0));
            }
            (card, before) = roll_back::come_again(core, last, card).await?;
        }
        let mut steps = vec![
            Step::Claim {
                name: claim,
                by: card.id.to_string(),
            },
            card_rules::write(&card, 0)?,
            core.new_credential(holder, Role::Holder { card: card.id }, "holder")?,
        ];
        steps.extend(before);
        steps.extend(look_then(&card));
        steps.extend(card_rules::begin_counting(&card, used));
        if row.balance_msat > 0 {
            steps.push(Step::Transfer(NewTransfer {
                id: core.new_id(TransferId::from_parts)?,
                debit: Account::former_issuer(),
                credit: card.balance_account(),
                amount: row.balance_msat,
                kind: TransferKind::CardImport,
                reference: import.id.to_string(),
                credit_ceiling: None,
            }));
        }
        steps.push(emit("card.imported", card.id.to_string(), &card)?);
        Ok(steps)
    }

    /// The cards of an import as they stand here; at most `limit` (1 to 1,000), after the card
    /// `after`. They go on paying: for the old issuer to go on with them there is
    /// [`roll_back`](Self::roll_back). Issuer only.
    ///
    /// # Errors
    /// `access.*`.
    pub async fn export(
        &self,
        credential: &Credential,
        import: CardImportId,
        after: Option<CardId>,
        limit: usize,
    ) -> Result<Answer<Vec<ExportedCard>>, Error> {
        let core = &self.core;
        let caller = core.authenticate(credential).await?;
        caller.require_issuer()?;
        let as_of_ms = core.clock.now_ms();
        let (key, after) = (import.to_string(), after.map(|card| card.to_string()));
        let listed = core.list::<Card>(CARDS, card_rules::BY_IMPORT, &key, after, limit);
        let mut value = Vec::new();
        for card in listed.await? {
            value.push(self.exported(&card).await?);
        }
        Ok(Answer { as_of_ms, value })
    }

    /// A card as it stands here.
    async fn exported(&self, card: &Card) -> Result<ExportedCard, Error> {
        let account = card.balance_account();
        let (balance, side) = (self.core.balance(&account).await?, account.kind().side());
        let (posted, available) = (balance.posted(side), balance.available(side));
        Ok(ExportedCard {
            card: card.id,
            id: card.chip.clone(),
            version: card.version,
            counter: self.used_of(card).await?,
            pull_payment_id: card.pull_payment_id.clone(),
            balance_msat: i64::try_from(posted).unwrap_or(i64::MAX),
            held_msat: i64::try_from(posted.saturating_sub(available)).unwrap_or(i64::MAX),
            state: card.state,
        })
    }

    /// The last counter that was used; 0 for none.
    async fn used_of(&self, card: &Card) -> Result<u32, Error> {
        let name = card_rules::counter_name(card);
        let stored = self.core.store.counter(&name).await?;
        let used = stored.map(|stored| stored.saturating_sub(card_rules::ahead(card)));
        Ok(used.and_then(|used| u32::try_from(used).ok()).unwrap_or(0))
    }
}

/// A chip that can be taken over.
struct Free {
    chip: String,
    /// The card that it was here before.
    before: Option<Loaded<Card>>,
}

impl Free {
    /// The name that it is taken by: once for ever, and once more each time that it went back.
    fn claim(&self) -> String {
        let first = chip_claim(&self.chip);
        match &self.before {
            None => first,
            Some(last) => format!("{first}/after/{}", last.value.id),
        }
    }
}

/// A part of the rows of a call.
struct Piece<'a> {
    /// The place of its first row in the call.
    first: usize,
    rows: &'a [ImportedCard],
    chips: &'a [Result<String, RowRefusal>],
}

fn chip_claim(chip: &str) -> String {
    format!("chip/{chip}")
}

fn check_rows(rows: usize) -> Result<(), CommandError> {
    if rows > MOST_ROWS {
        let (field, bounds) = ("rows", "at most 1,000,000 of them");
        return Err(CommandError::OutOfBounds { field, bounds });
    }
    Ok(())
}

fn write(import: &CardImport, read_version: i64) -> Result<Step, Error> {
    let id = import.id.to_string();
    put(IMPORTS, id, read_version, import, Vec::new())
}

async fn load(core: &Core, import: CardImportId) -> Result<Loaded<CardImport>, Error> {
    core.load(IMPORTS, &import.to_string())
        .await?
        .ok_or(CardError::ImportNotFound { import }.into())
}
